import jax
import numpy as np
import pytest

from jaxseq.tasks import string_copying

KEYS = jax.random.split(jax.random.key(0), 300)
make = jax.jit(string_copying.batch, static_argnums=(1, 2))


@pytest.mark.parametrize("shortest, least", [(1.0, 7), (0.4, 3), (0.0, 1)])
def test_the_string_follows_its_end(shortest, least):
  config = string_copying.StringCopyingConfig(vocab_size=6, shortest=shortest)
  batch = jax.tree.map(np.asarray, make(KEYS, config, 15))
  sizes = []
  for inputs, targets, weights in zip(
    batch["inputs"].tolist(), batch["targets"].tolist(), batch["weights"]
  ):
    n = inputs.index(5)
    string = inputs[:n]
    assert set(string) <= set(range(4))
    rest = 15 - 2 * n
    assert inputs == [*string, 5, *string[:-1], *[4] * rest]
    assert targets == [*[0] * n, *string, *[0] * rest]
    assert weights.tolist() == [0] * n + [1] * n + [0] * rest
    sizes.append(n)
  count = np.bincount(sizes, minlength=8)[least:] / len(KEYS)
  np.testing.assert_allclose(count, 1 / len(count), atol=0.1)
  assert min(sizes) == least


def test_wrong_fields_are_refused():
  with pytest.raises(ValueError, match="0 <= shortest <= 1; got 1.5"):
    string_copying.StringCopyingConfig(shortest=1.5)
  with pytest.raises(ValueError, match="vocab_size >= 4; got 3"):
    string_copying.StringCopyingConfig(vocab_size=3)
  with pytest.raises(ValueError, match="held_out_examples >= 1; got 0"):
    string_copying.StringCopyingConfig(held_out_examples=0)


def test_a_length_without_a_letter_is_refused():
  with pytest.raises(ValueError, match="sequence_length >= 2; got 1"):
    string_copying.batch(KEYS, string_copying.StringCopyingConfig(), 1)
