import dataclasses

import jax
import numpy as np
import pytest

from jaxseq.tasks import set_disjointness

KEYS = jax.random.split(jax.random.key(0), 400)
make = jax.jit(set_disjointness.batch, static_argnums=(1, 2))


def sample(**fields):
  config = set_disjointness.SetDisjointnessConfig(vocab_size=20, set_size=3, **fields)
  return config, jax.tree.map(np.asarray, make(KEYS, config, 13))


@pytest.mark.parametrize("first", ["smaller", "larger"])
@pytest.mark.parametrize("answer", ["whether", "which"])
def test_the_answer_is_that_of_the_two_sets(first, answer):
  _, batch = sample(first=first, answer=answer)
  places, answers = np.zeros(13), []
  for inputs, targets in zip(batch["inputs"].tolist(), batch["targets"].tolist()):
    bar = inputs.index(2)
    sets = [set(inputs[:bar]), set(inputs[bar + 1 : -1])]
    assert [len(s) for s in sets] == ([3, 8] if first == "smaller" else [8, 3])
    assert inputs[-1] == 3 and min(sets[0] | sets[1]) >= 4
    shared = sets[0] & sets[1]
    assert len(shared) <= 1
    want = int(not shared) if answer == "whether" else list(shared)[0]
    assert targets == [0] * 12 + [want]
    answers.append(want)
    places += [token in shared for token in inputs]
  assert (batch["weights"] == [0] * 12 + [1]).all()
  if answer == "whether":
    assert abs(np.mean(answers) - 0.5) < 0.1
  # No place gives the shared element away.
  for size in (3, 8):
    at = slice(0, size) if (size == 3) == (first == "smaller") else slice(12 - size, 12)
    np.testing.assert_allclose(places[at] / places[at].sum(), 1 / size, atol=0.12)


@pytest.mark.parametrize("length", [25, 26])
def test_the_sets_can_be_read_twice(length):
  config, batch = sample(answer="which")
  twice = make(KEYS, dataclasses.replace(config, twice=True), length)
  np.testing.assert_array_equal(twice["inputs"][:, :12], batch["inputs"][:, :12])
  assert not twice["weights"][:, :12].any()
  for name, values in batch.items():
    np.testing.assert_array_equal(twice[name][:, 12:25], values)
  assert not twice["segment_ids"][:, 25:].any()


@pytest.mark.parametrize(
  "wrong, message",
  [
    (dict(first="a"), "first in .'smaller', 'larger'.; got 'a'"),
    (dict(answer="a"), "answer in .'whether', 'which'.; got 'a'"),
    (dict(set_size=0), "set_size >= 1; got 0"),
    (dict(vocab_size=11), "vocab_size >= 12; got 11"),
    (dict(held_out_examples=0), "held_out_examples >= 1; got 0"),
  ],
)
def test_wrong_fields_are_refused(wrong, message):
  with pytest.raises(ValueError, match=f"set_disjointness needs {message}"):
    set_disjointness.SetDisjointnessConfig(**wrong)


def test_lengths_too_short_or_past_the_elements_are_refused():
  config, _ = sample()
  with pytest.raises(ValueError, match="sequence_length >= 8; got 7"):
    set_disjointness.batch(KEYS, config, 7)
  with pytest.raises(ValueError, match=r"sequence_length \+ 2 = 21, .* got 20"):
    set_disjointness.batch(KEYS, config, 19)
