"""The Legendre memory unit (Voelker et al. 2019, NeurIPS, sec. 2).

    u_t = e_x . x_t + e_h . h_{t-1} + e_m . m_{t-1}
    m_t = A m_{t-1} + B u_t
    y_t = h_t = tanh(W_x x_t + W_h h_{t-1} + W_m m_t)

A and B keep the last tokens of u as coefficients of Legendre's polynomials and are not
learned; see `ops.ssm.legendre_delay`. `modules.ssm.LMU` is the later unit without the
feedback, which runs in parallel. Initial values are the authors': LeCun's uniform ones
for e_x and e_h, zeros for e_m, Glorot's normal ones for the matrices.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer
from jaxseq.ops.ssm import legendre_delay

__all__ = ["RecurrentLMU"]


class RecurrentLMU(Mixer):
  """A recurrent network that writes to a memory of its past.

  Attributes:
    memory_size: Polynomials N of the memory.
    window: Tokens that the memory reaches back.
  """

  memory_size: int = 64
  window: float = 128.0

  def __post_init__(self):
    super().__post_init__()
    if self.window <= 0:
      raise ValueError(f"RecurrentLMU needs window > 0; got {self.window}")

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    K, N = self.features, self.memory_size
    y = ops.segments.clear_padding(x, segment_ids)

    def project(width, name, axes, init):
      types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
      return layers.projection(width, axes, kernel_init=init, name=name, **types)(y)

    def param(name, init, *shape):
      axes = ("heads", None)[: len(shape)]
      init = nn.with_logical_partitioning(init, axes)
      return self.param(name, init, shape, self.param_dtype)

    lecun = nn.initializers.lecun_uniform()
    glorot = nn.initializers.glorot_normal()
    row = lambda key, shape, dtype: lecun(key, (*shape, 1), dtype)[:, 0]
    weights = ops.LMUWeights(
      *legendre_delay.legendre_delay(N, self.window),
      e_h=param("e_h", row, K),
      e_m=param("e_m", nn.initializers.zeros, N),
      W_h=param("W_h", glorot, K, K),
      W_m=param("W_m", glorot, K, N),
    )
    u = project(1, "e_x", ("embed", None), lecun)[..., 0]
    h, state = ops.lmu(
      u.astype(jnp.float32),
      project(K, "W_x", ("embed", "heads"), glorot).astype(jnp.float32),
      weights,
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    return h.astype(x.dtype), state

  @nn.nowrap
  def initial_state(self, batch_size: int) -> ops.LMUState:
    zeros = lambda width: jnp.zeros((batch_size, width))
    return ops.LMUState(zeros(self.features), zeros(self.memory_size))
