"""S4 (Gu et al. 2021, arXiv:2111.00396).

    dh/dt = (Lambda - P P^*) h + B x,   y = C h + D x       one system for each channel
    output = GLU(GELU(y))

The system begins with HiPPO-LegS in its form of a normal matrix plus one of low rank,
and is discretised by the bilinear rule (sec. 3.1). What is learned in the place of C is
C~ = C (I - A^L) for a fixed L, from which the convolution's first L taps come by a
Cauchy kernel (algorithm 1; see `ops.ssm.low_rank`). The recurrence needs C itself,
which costs each call powers of A and a solution. The gated unit after GELU is that of
the authors' layer, and so is one P for both factors.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.layers import time_scales
from jaxseq.modules.mixer import Mixer
from jaxseq.ops.ssm import hippo, low_rank

__all__ = ["S4"]


class S4(Mixer):
  """A linear system with a diagonal plus low-rank matrix for each channel.

  Attributes:
    state_size: States N of a channel.
    kernel_length: Tokens L for which C~ is made. Longer inputs take the kernel from
      powers of A.
    dt_min: Least initial step size.
    dt_max: Largest initial step size.
  """

  state_size: int = 64
  kernel_length: int = 1024
  dt_min: float = 0.001
  dt_max: float = 0.1

  def __post_init__(self):
    super().__post_init__()
    if self.state_size % 2 or self.kernel_length % 2:
      raise ValueError(
        "S4 needs an even state_size and an even kernel_length; "
        f"got {self.state_size} and {self.kernel_length}"
      )

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    x = ops.segments.clear_padding(x, segment_ids)
    y, state = self._system(x, state, segment_ids)
    glu = layers.GLU(self.features, self.dtype, self.param_dtype, name="glu")
    y = glu(nn.gelu(y.astype(self.dtype), approximate=False)).astype(x.dtype)
    return ops.segments.clear_padding(y, segment_ids), state

  def _system(self, x, state=None, segment_ids=None):
    """C h + D x, and the last h."""
    x = x.astype(jnp.float32)
    y, last = self._run(self._discretized(x.shape[1]), x, state, segment_ids)
    return y + self._param("D", nn.initializers.normal(1.0)) * x, last

  def _discretized(self, length):
    """A, B and C of the recurrence, and its kernel if that is long enough."""
    N, L = self.state_size // 2, self.kernel_length
    parts = hippo.normal_plus_low_rank("legs", self.state_size)
    values = parts.eigenvalues[:N]
    pair = lambda z: _constant(np.stack([z.real, z.imag], axis=-1))
    log_dt = self._param("log_dt", time_scales.log_step_init(self.dt_min, self.dt_max))
    log_decay = self._param("log_decay", _constant(np.log(-values.real)), N)
    frequency = self._param("frequency", _constant(values.imag), N)
    P = self._complex("P", pair(parts.P[0, :N].conj()), N)
    B = self._complex("B", pair(parts.B[:N]), N)
    C = self._complex("C", nn.initializers.normal(0.5**0.5), 1, N)
    system = jax.lax.complex(-jnp.exp(log_decay), frequency), P, B
    dt = jnp.exp(log_dt)
    a, b = low_rank.discretize(*system, dt)
    kernel = low_rank.kernel(*system, C, dt, L) if length <= L else None
    return a, b, low_rank.whole_output(a, C, L), kernel

  def _run(self, system, x, state, segment_ids):
    *matrices, kernel = system
    y, last = ops.linear_system(
      x,
      *matrices,
      kernel=kernel,
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    return y[..., 0], last

  def _complex(self, name, init, *shape):
    real_and_imaginary = self._param(name, init, *shape, 2)
    return jax.lax.complex(real_and_imaginary[..., 0], real_and_imaginary[..., 1])

  def _param(self, name, init, *shape):
    """With the axis of channels first."""
    axes = ("heads", *[None] * len(shape))
    init = nn.with_logical_partitioning(init, axes)
    return self.param(name, init, (self.features, *shape), self.param_dtype)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> Float[Array, "B D N"]:
    return jnp.zeros((batch_size, self.features, self.state_size))


def _constant(value):
  """An initializer: the same in each channel."""
  return lambda key, shape, dtype: jnp.broadcast_to(value, shape).astype(dtype)
