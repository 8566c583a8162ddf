import jax
import numpy as np
import pytest

from jaxseq.tasks import compression

CONFIG = compression.CompressionConfig(num_tokens=5, max_places=8)
KEYS = jax.random.split(jax.random.key(0), 200)
make = jax.jit(compression.batch, static_argnums=(1, 2))


@pytest.mark.parametrize("length", [12, 17])
def test_each_place_is_asked_for_once_and_answered_by_its_token(length):
  batch = jax.tree.map(np.asarray, make(KEYS, CONFIG, length))
  n = length // 2
  for inputs, targets, weights in zip(
    batch["inputs"].tolist(), batch["targets"].tolist(), batch["weights"]
  ):
    end = inputs.index(5)
    assert end == n and max(inputs[:end]) < 5
    places = [token - 6 for token in inputs[end + 1 :]]
    assert len(set(places)) == len(places) and set(places) <= set(range(n))
    assert targets == [0] * (n + 1) + [inputs[place] for place in places]
    np.testing.assert_array_equal(weights, np.arange(length) > end)
  # Any place comes first as often as another.
  first = np.bincount(batch["inputs"][:, n + 1] - 6, minlength=n) / len(KEYS)
  np.testing.assert_allclose(first, 1 / n, atol=0.1)


@pytest.mark.parametrize(
  "wrong, least",
  [(dict(num_tokens=1), 2), (dict(max_places=0), 1), (dict(held_out_examples=0), 1)],
)
def test_wrong_fields_are_refused(wrong, least):
  ((name, value),) = wrong.items()
  with pytest.raises(ValueError, match=f"{name} >= {least}; got {value}"):
    compression.CompressionConfig(**wrong)


def test_lengths_without_a_question_or_past_the_places_are_refused():
  with pytest.raises(ValueError, match="sequence_length >= 3; got 2"):
    compression.batch(KEYS, CONFIG, 2)
  with pytest.raises(ValueError, match=r"<= 2 max_places \+ 1 = 17; got 18"):
    compression.batch(KEYS, CONFIG, 18)
