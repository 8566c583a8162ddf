"""Memorization (Poli et al. 2024, "MAD", arXiv:2403.17844; code: mad-lab).

    inputs   a | c | a | b |        "|" asks; T = 8
    targets  . 5 . 7 . 5 . 6        only these count

Keys and values are joined one to one by a dictionary that is the same in all sequences.
Values never stand in the inputs, so they can only be learned in the weights.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from jaxseq.tasks import checks

__all__ = ["MemorizationConfig", "batch"]


@dataclasses.dataclass(frozen=True)
class MemorizationConfig:
  """The task.

  Attributes:
    vocab_size: W: n keys, n values, and the last id asks; n = (W - 1) / 2, rounded
      down. The authors take 256 and more.
    dictionary_seed: Of the key that the dictionary is drawn from.
    held_out_examples: Number of sequences evaluated.
  """

  vocab_size: int = 256
  dictionary_seed: int = 0
  held_out_examples: int = 1024

  @property
  def num_keys(self) -> int:
    return (self.vocab_size - 1) // 2

  @property
  def chance(self) -> float:
    return 1 / self.num_keys

  def __post_init__(self):
    checks.check_at_least("memorization", 5, vocab_size=self.vocab_size)
    checks.check_at_least("memorization", 1, held_out_examples=self.held_out_examples)


def dictionary(config: MemorizationConfig) -> Int[Array, "n"]:
  """The value of each key."""
  n = config.num_keys
  return n + jax.random.permutation(jax.random.key(config.dictionary_seed), n)


def batch(
  keys: PRNGKeyArray, config: MemorizationConfig, length: int
) -> dict[str, Int[Array, "B T"]]:
  """Sequences of the task, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The task.
    length: T, at least 2.

  Returns:
    A batch of `data`: inputs, targets, weights (float32) and segment_ids, all [B, T].

  Raises:
    ValueError: If there is no place for a key and its query.
  """
  checks.check_at_least("memorization", 2, sequence_length=length)
  draw = lambda key: jax.random.randint(key, (length,), 0, config.num_keys)
  asked = jax.vmap(draw)(keys)
  ask = jnp.arange(length) % 2 == 1
  values = dictionary(config)[jnp.roll(asked, 1, axis=1)]
  return dict(
    inputs=jnp.where(ask, config.vocab_size - 1, asked),
    targets=jnp.where(ask, values, 0),
    weights=jnp.broadcast_to(ask, asked.shape).astype(jnp.float32),
    segment_ids=jnp.ones(asked.shape, jnp.int32),
  )
