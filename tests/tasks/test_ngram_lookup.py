import jax
import numpy as np
import pytest

from jaxseq.tasks import ngram_lookup

KEYS = jax.random.split(jax.random.key(0), 300)


@pytest.mark.parametrize("kind, length", [("suffix", 18), ("prefix", 19)])
def test_the_answer_follows_the_first_place_of_the_key(kind, length):
  config = ngram_lookup.NgramLookupConfig(
    vocab_size=4, key=kind, key_length=2, answer_length=3
  )
  make = jax.jit(ngram_lookup.batch, static_argnums=(1, 2))
  batch = jax.tree.map(np.asarray, make(KEYS, config, length))
  places = []
  for inputs, targets in zip(batch["inputs"].tolist(), batch["targets"].tolist()):
    text = "".join("abc|"[token] for token in inputs)
    if kind == "suffix":
      string, asked = text.split("|")
      key, begun = asked[:2], asked[2:]
    else:
      key, string, begun = text.split("|")
    place = string.index(key)
    answer = string[place + 2 : place + 5]
    assert len(string) == 13 and begun == answer[:-1]
    assert targets == [0] * (length - 3) + ["abc".index(letter) for letter in answer]
    places.append(place)
  assert min(places) == 0 and max(places) == 8
  np.testing.assert_array_equal(
    batch["weights"], np.tile(np.arange(length) >= length - 3, (300, 1))
  )
  with pytest.raises(ValueError, match=f"length >= {length - 8}; got {length - 9}"):
    ngram_lookup.batch(KEYS, config, length - 9)


@pytest.mark.parametrize(
  "wrong, message",
  [
    (dict(key="middle"), "needs key in .'suffix', 'prefix'.; got 'middle'"),
    (dict(vocab_size=2), "vocab_size >= 3; got 2"),
    (dict(key_length=0), "key_length >= 1; got 0"),
    (dict(answer_length=0), "answer_length >= 1; got 0"),
    (dict(held_out_examples=0), "held_out_examples >= 1; got 0"),
  ],
)
def test_wrong_fields_are_refused(wrong, message):
  with pytest.raises(ValueError, match=message):
    ngram_lookup.NgramLookupConfig(**wrong)
