"""Parity of the bits so far, the simplest task of state tracking.

    inputs   1 0 1 1 0        (Grazzi et al. 2024, arXiv:2411.12537, sec. 5.1)
    targets  1 1 0 1 1

A recurrence whose transitions have no negative eigenvalue cannot do it at all lengths
(their theorem 1).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from jaxseq.tasks import checks

__all__ = ["ParityConfig", "batch"]


@dataclasses.dataclass(frozen=True)
class ParityConfig:
  """The task.

  Attributes:
    held_out_examples: Number of sequences evaluated.
  """

  held_out_examples: int = 1024

  vocab_size = 2
  chance = 0.5

  def __post_init__(self):
    checks.check_at_least("parity", 1, held_out_examples=self.held_out_examples)


def batch(
  keys: PRNGKeyArray, config: ParityConfig, length: int
) -> dict[str, Int[Array, "B T"]]:
  """Sequences of the task, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The task.
    length: T, at least 1.

  Returns:
    A batch of `data`: inputs, targets, weights (float32) and segment_ids, all [B, T].

  Raises:
    ValueError: If there would be no token.
  """
  checks.check_at_least("parity", 1, sequence_length=length)
  del config  # It changes no sequence.
  inputs = jax.vmap(lambda key: jax.random.bernoulli(key, shape=(length,)))(keys)
  inputs = inputs.astype(jnp.int32)
  return dict(
    inputs=inputs,
    targets=jnp.cumsum(inputs, axis=1) % 2,
    weights=jnp.ones(inputs.shape, jnp.float32),
    segment_ids=jnp.ones(inputs.shape, jnp.int32),
  )
