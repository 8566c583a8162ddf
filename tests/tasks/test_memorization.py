import jax
import numpy as np
import pytest

from jaxseq.tasks import memorization

CONFIG = memorization.MemorizationConfig(vocab_size=14)
make = jax.jit(memorization.batch, static_argnums=(1, 2))


def pairs(config, seed, length):
  """What each key is answered by, over all rows."""
  keys = jax.random.split(jax.random.key(seed), 100)
  batch = jax.tree.map(np.asarray, make(keys, config, length))
  inputs, targets = batch["inputs"], batch["targets"]
  asked = np.arange(length) % 2 == 1
  assert (inputs[:, asked] == config.vocab_size - 1).all()
  assert (batch["weights"] == asked).all() and not targets[:, ~asked].any()
  keys = inputs[:, : length - 1 : 2]
  return set(zip(keys.reshape(-1).tolist(), targets[:, asked].reshape(-1).tolist()))


def test_one_dictionary_joins_all_keys_and_values():
  told = pairs(CONFIG, 0, 13)
  assert {k for k, _ in told} == set(range(6))
  assert {v for _, v in told} == set(range(6, 12))
  assert len(told) == 6  # One to one.
  assert pairs(CONFIG, 1, 8) == told
  other = memorization.MemorizationConfig(vocab_size=14, dictionary_seed=1)
  assert pairs(other, 0, 13) != told


@pytest.mark.parametrize(
  "wrong, least", [(dict(vocab_size=4), 5), (dict(held_out_examples=0), 1)]
)
def test_wrong_fields_are_refused(wrong, least):
  ((name, value),) = wrong.items()
  with pytest.raises(ValueError, match=f"{name} >= {least}; got {value}"):
    memorization.MemorizationConfig(**wrong)


def test_a_length_without_a_query_is_refused():
  with pytest.raises(ValueError, match="sequence_length >= 2; got 1"):
    memorization.batch(jax.random.split(jax.random.key(0), 1), CONFIG, 1)
