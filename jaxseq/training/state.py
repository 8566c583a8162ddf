"""What a training step changes."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray

__all__ = ["TrainState", "create"]


@flax.struct.dataclass
class TrainState:
  """All that a run needs to go on, but for the data.

  Attributes:
    step: Batches used so far, those skipped included.
    params: Parameters, float32.
    opt_state: The optimizer's.
    ema: Exponential moving average of the parameters, or None.
    key: Random key, from which each step draws.
    skipped: Steps left out because loss or gradient was not finite.
    skipped_in_a_row: Of these, the last ones.
  """

  step: Int[Array, ""]
  params: Any
  opt_state: Any
  ema: Any
  key: PRNGKeyArray
  skipped: Int[Array, ""]
  skipped_in_a_row: Int[Array, ""]

  @property
  def eval_params(self):
    """The average of the parameters if there is one, else the parameters."""
    return self.params if self.ema is None else self.ema


def create(
  params, optimizer: optax.GradientTransformation, key: PRNGKeyArray, *, ema: bool
) -> TrainState:
  """The state before the first step.

  Args:
    params: Initial parameters.
    optimizer: Whose state to make.
    key: Random key.
    ema: Whether to keep an average of the parameters.
  """
  zero = lambda: jnp.zeros((), jnp.int32)
  average = jax.tree.map(jnp.copy, params) if ema else None
  return TrainState(
    zero(), params, optimizer.init(params), average, key, zero(), zero()
  )
