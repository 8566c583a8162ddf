"""Flip-flop language modelling (Liu et al. 2023, arXiv:2306.00946).

    inputs   w 1 i 0 i 1 r 1 w 0 r 0     write, ignore and read, each with a bit; T = 12
    targets  . . . . . . 1 . . . 0 .     only the bits to be read count

A bit that is read is the one that was written last. The first instruction writes, the
last reads. The authors train with few reads and writes, 0.1 each, and try fewer, 0.01,
where the bit has to be kept for long, and more, 0.45.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from jaxseq.tasks import checks

__all__ = ["FlipFlopConfig", "batch"]

WRITE, READ, IGNORE = 2, 3, 4  # 0 and 1 are the bits.


@dataclasses.dataclass(frozen=True)
class FlipFlopConfig:
  """The task.

  Attributes:
    write_probability: Of an instruction that is neither the first nor the last.
    read_probability: Likewise; the rest are ignored.
    held_out_examples: Number of sequences evaluated.
  """

  write_probability: float = 0.1
  read_probability: float = 0.1
  held_out_examples: int = 1024

  vocab_size = 5
  chance = 0.5

  def __post_init__(self):
    checks.check_at_least("flip_flop", 1, held_out_examples=self.held_out_examples)
    p, q = self.write_probability, self.read_probability
    if not (p >= 0 and q >= 0 and p + q <= 1):
      raise ValueError(
        "flip_flop needs write_probability and read_probability >= 0, together "
        f"<= 1; got {p} and {q}"
      )


def example(
  key: PRNGKeyArray, config: FlipFlopConfig, length: int
) -> dict[str, Int[Array, "T"]]:
  """One sequence; see `batch`."""
  n = length // 2  # Instructions.
  which_key, bits_key = jax.random.split(key)
  u = jax.random.uniform(which_key, (n,))
  p, q = config.write_probability, config.read_probability
  which = jnp.where(u < p, WRITE, jnp.where(u < p + q, READ, IGNORE))
  which = which.at[0].set(WRITE).at[-1].set(READ)
  bits = jax.random.bernoulli(bits_key, shape=(n,)).astype(jnp.int32)
  read = which == READ
  written = jax.lax.cummax(jnp.where(which == WRITE, jnp.arange(n), 0))
  bits = jnp.where(read, bits[written], bits)

  pairs = lambda x, y: jnp.pad(jnp.stack([x, y], axis=1).reshape(-1), (0, length % 2))
  return dict(
    inputs=pairs(which, bits),
    targets=pairs(bits * read, jnp.zeros_like(bits)),
    weights=pairs(read, jnp.zeros_like(read)).astype(jnp.float32),
    segment_ids=jnp.ones(length, jnp.int32),
  )


def batch(
  keys: PRNGKeyArray, config: FlipFlopConfig, length: int
) -> dict[str, Int[Array, "B T"]]:
  """Sequences of the task, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The task.
    length: T, at least 4. If it is odd, a last token that does not count is 0.

  Returns:
    A batch of `data`: inputs, targets, weights (float32) and segment_ids, all [B, T].

  Raises:
    ValueError: If a write and a read do not fit.
  """
  checks.check_at_least("flip_flop", 4, sequence_length=length)
  return jax.vmap(lambda key: example(key, config, length))(keys)
