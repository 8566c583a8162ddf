"""Copying a string (Jelassi et al. 2024, "Repeat After Me", arXiv:2402.01032).

    inputs   a b a c | a b a _        "|" ends the string, "_" is padding; T = 9
    targets  . . . . a b a c .        only these count

As in the authors' code, but for its end-of-string token, which is not asked for, and
its packing of several strings into one row. They train on strings of mixed lengths and
try longer ones, and count whole strings; here each token counts.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from jaxseq.tasks import checks

__all__ = ["StringCopyingConfig", "batch"]


@dataclasses.dataclass(frozen=True)
class StringCopyingConfig:
  """The task.

  Attributes:
    vocab_size: W: letters, then padding, W - 2, and "|", W - 1.
    shortest: Strings have evenly drawn lengths, down to this share of the longest
      that fits. With 1 all are that long.
    held_out_examples: Number of sequences evaluated.
  """

  vocab_size: int = 28
  shortest: float = 1.0
  held_out_examples: int = 1024

  @property
  def chance(self) -> float:
    return 1 / (self.vocab_size - 2)

  def __post_init__(self):
    checks.check_at_least("string_copying", 4, vocab_size=self.vocab_size)
    checks.check_at_least("string_copying", 1, held_out_examples=self.held_out_examples)
    if not 0 <= self.shortest <= 1:
      raise ValueError(f"string_copying needs 0 <= shortest <= 1; got {self.shortest}")


def example(
  key: PRNGKeyArray, config: StringCopyingConfig, length: int
) -> dict[str, Int[Array, "T"]]:
  """One sequence; see `batch`."""
  size_key, letters_key = jax.random.split(key)
  most = length // 2
  least = max(1, round(config.shortest * most))
  n = jax.random.randint(size_key, (), least, most + 1)
  letters = jax.random.randint(letters_key, (length,), 0, config.vocab_size - 2)
  t = jnp.arange(length)
  copied = (t >= n) & (t < 2 * n)
  inputs = jnp.where(copied, letters[t - n - 1], config.vocab_size - 2)
  inputs = jnp.where(t < n, letters, inputs)
  return dict(
    inputs=inputs.at[n].set(config.vocab_size - 1),
    targets=jnp.where(copied, letters[t - n], 0),
    weights=copied.astype(jnp.float32),
    segment_ids=jnp.ones(length, jnp.int32),
  )


def batch(
  keys: PRNGKeyArray, config: StringCopyingConfig, length: int
) -> dict[str, Int[Array, "B T"]]:
  """Sequences of the task, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The task.
    length: T, at least 2. The longest string has half of it.

  Returns:
    A batch of `data`: inputs, targets, weights (float32) and segment_ids, all [B, T].

  Raises:
    ValueError: If no letter fits.
  """
  checks.check_at_least("string_copying", 2, sequence_length=length)
  return jax.vmap(lambda key: example(key, config, length))(keys)
