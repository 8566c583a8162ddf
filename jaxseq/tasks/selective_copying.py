"""Selective copying (Gu & Dao 2023, "Mamba", arXiv:2312.00752, sec. 4.1.1).

    inputs   3 . . 1 . 4 . | | |        "." is noise, "|" asks; n = 3 tokens, T = 10
    targets  . . . . . . . 3 1 4        only these count

The tokens to remember stand at random places among noise and are asked for in their
order. Gaps differ from row to row, so that a mixer whose time runs the same for all
inputs cannot tell token from noise.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from jaxseq.tasks import checks

__all__ = ["SelectiveCopyingConfig", "batch"]

NOISE = 0


@dataclasses.dataclass(frozen=True)
class SelectiveCopyingConfig:
  """The task.

  Attributes:
    vocab_size: W: 0 is noise, W - 1 asks, those between are to be remembered.
    num_tokens: n, to be remembered.
    held_out_examples: Number of sequences evaluated.
  """

  vocab_size: int = 16
  num_tokens: int = 16
  held_out_examples: int = 1024

  @property
  def chance(self) -> float:
    return 1 / (self.vocab_size - 2)

  def __post_init__(self):
    checks.check_at_least(
      "selective_copying",
      1,
      num_tokens=self.num_tokens,
      held_out_examples=self.held_out_examples,
    )
    checks.check_at_least("selective_copying", 3, vocab_size=self.vocab_size)


def example(
  key: PRNGKeyArray, config: SelectiveCopyingConfig, length: int
) -> dict[str, Int[Array, "T"]]:
  """One sequence; see `batch`."""
  n = config.num_tokens
  tokens_key, places_key = jax.random.split(key)
  tokens = jax.random.randint(tokens_key, (n,), 1, config.vocab_size - 1)
  places = jax.random.choice(places_key, length - n, (n,), replace=False)
  ask = jnp.arange(length) >= length - n
  inputs = jnp.where(ask, config.vocab_size - 1, NOISE)
  return dict(
    inputs=inputs.at[jnp.sort(places)].set(tokens),
    targets=jnp.zeros(length, jnp.int32).at[-n:].set(tokens),
    weights=ask.astype(jnp.float32),
    segment_ids=jnp.ones(length, jnp.int32),
  )


def batch(
  keys: PRNGKeyArray, config: SelectiveCopyingConfig, length: int
) -> dict[str, Int[Array, "B T"]]:
  """Sequences of the task, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The task.
    length: T, at least 2 `num_tokens`.

  Returns:
    A batch of `data`: inputs, targets, weights (float32) and segment_ids, all [B, T].

  Raises:
    ValueError: If the tokens and the places that ask for them do not fit.
  """
  least = 2 * config.num_tokens
  checks.check_at_least("selective_copying", least, sequence_length=length)
  return jax.vmap(lambda key: example(key, config, length))(keys)
