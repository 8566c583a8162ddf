import jax
import numpy as np
import pytest

from jaxseq.tasks import counting

make = jax.jit(counting.batch, static_argnums=(1, 2))
KEYS = jax.random.split(jax.random.key(0), 1000)
CONFIG = counting.CountingConfig(vocab_size=8, num_letters=3, max_count=4)


def test_answers_are_how_often_the_letter_stands_there():
  batch = jax.tree.map(np.asarray, make(KEYS, CONFIG, 20))
  places = []
  for inputs, targets, weights in zip(
    batch["inputs"].tolist(), batch["targets"], batch["weights"]
  ):
    assert set(inputs[:17]) <= {0, 1, 2, 3} and sorted(inputs[17:]) == [4, 5, 6]
    for t in (17, 18, 19):
      assert targets[t] == inputs[:17].count(inputs[t] - 4)
    assert weights.tolist() == [0] * 17 + [1] * 3 and not targets[:17].any()
    places += [t for t in range(17) if inputs[t] < 3]
  answers = np.bincount(batch["targets"][:, 17:].reshape(-1)) / 3000
  np.testing.assert_allclose(answers, [0.2] * 5, atol=0.03)
  np.testing.assert_allclose(np.bincount(places) / 1000, 6 / 17, atol=0.06)


def test_numbers_without_an_id_and_short_strings_are_refused():
  with pytest.raises(ValueError, match="vocab_size >= 65; got 64"):
    counting.CountingConfig(max_count=64)
  with pytest.raises(ValueError, match="vocab_size >= 9; got 8"):
    counting.CountingConfig(vocab_size=8, num_letters=4, max_count=4)
  with pytest.raises(ValueError, match="sequence_length >= 15; got 14"):
    make(KEYS, CONFIG, 14)
