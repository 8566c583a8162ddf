"""The parallel Legendre memory unit (Chilkuri & Eliasmith 2021, arXiv:2102.11417).

    u_t = relu(x_t W_u + b_u)                                                  (eq. 18)
    m_t = A m_{t-1} + B u_t              a Legendre delay of each channel of u (eq. 19)
    y_t = relu(m_t W_m + x_t W_x + b)                                          (eq. 20)

A and B are not learned: they keep the last tokens of u as coefficients of Legendre's
polynomials; see `ops.ssm.legendre_delay`. The first unit (Voelker et al. 2019) has the
last y and m in u, and the last y in y, too: that recurrence is not linear. The paper
leaves the activations open; ReLU is LMUFormer's.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer
from jaxseq.ops.ssm import legendre_delay

__all__ = ["LMU"]


class LMU(Mixer):
  """A few channels, remembered over a window of time.

  Attributes:
    memory_size: Polynomials N of each channel's memory.
    num_channels: Channels of u. The paper's networks have one.
    window: Tokens that a memory reaches back.
  """

  memory_size: int = 64
  num_channels: int = 1
  window: float = 128.0

  def __post_init__(self):
    super().__post_init__()
    if self.window <= 0:
      raise ValueError(f"LMU needs window > 0; got {self.window}")

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    x = ops.segments.clear_padding(x, segment_ids)

    def project(x, width, name, axes, use_bias=True):
      types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
      return layers.projection(width, axes, use_bias=use_bias, name=name, **types)(x)

    u = nn.relu(project(x, self.num_channels, "u", ("embed", None)))
    m, state = ops.dense_recurrence(
      u.astype(jnp.float32),
      *legendre_delay.legendre_delay(self.memory_size, self.window),
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    m = m.reshape(*x.shape[:2], -1).astype(self.dtype)
    y = project(m, self.features, "memory", ("heads", "embed"), use_bias=False)
    y = nn.relu(y + project(x, self.features, "input", ("embed", "embed_out")))
    return ops.segments.clear_padding(y.astype(x.dtype), segment_ids), state

  @nn.nowrap
  def initial_state(self, batch_size: int) -> Float[Array, "B C N"]:
    return jnp.zeros((batch_size, self.num_channels, self.memory_size))
