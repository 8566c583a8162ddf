"""IndRNN (Li et al. 2018, arXiv:1803.04831, eq. 2).

    h_t = relu(W x_t + b + u * h_{t-1})

Every channel has a memory of its own; channels mix in W of the next layer. Over T
tokens the gradient grows by at most the T-th power of u, so |u| is kept below 2^(1/T).
It begins uniform between 0 and that bound.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer

__all__ = ["IndRNN"]


class IndRNN(Mixer):
  """A recurrent network whose channels do not see one another's states.

  Attributes:
    horizon: T, tokens over which no gradient more than doubles.
  """

  horizon: int = 1024

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    x = ops.segments.clear_padding(x, segment_ids)
    project = layers.projection(
      self.features,
      ("embed", "heads"),
      use_bias=True,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name="input",
    )
    bound = 2.0 ** (1 / self.horizon)
    init = nn.with_logical_partitioning(nn.initializers.uniform(bound), ("heads",))
    u = self.param("recurrent", init, (self.features,), self.param_dtype)
    # As heads of one channel.
    h, state = ops.elman(
      project(x).astype(jnp.float32)[..., None, None],
      jnp.clip(u, -bound, bound)[:, None, None, None],
      activation="relu",
      initial_state=None if state is None else state[..., None],
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    return h[..., 0].astype(x.dtype), state[..., 0]

  @nn.nowrap
  def initial_state(self, batch_size: int) -> Float[Array, "B D"]:
    return jnp.zeros((batch_size, self.features))
