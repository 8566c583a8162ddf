"""LSSL (Gu et al. 2021, arXiv:2110.13985).

    dh/dt = A h + B x,   y = C h + D x        M outputs y for each channel's one input x
    output = GELU(y) W + b

A is a HiPPO matrix, the same for all channels, and each channel has its own step dt
of the generalised bilinear rule (eq. 3). The kernel (C b, C a b, C a^2 b, ...) is a
Krylov matrix, made by squaring a, and the convolution goes by FFT (sec. 3.1). LSSL-f
holds A, B and dt; LSSL learns them (sec. 5). The paper restricts a learned A to
quasiseparable matrices (theorem 2), a matter of speed; here all its entries are free.
Where dt is held it is log-spaced over the channels; the authors draw it at random.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer
from jaxseq.ops.ssm import discretize, hippo

__all__ = ["LSSL"]


class LSSL(Mixer):
  """A linear system for each channel, by a matrix that all share.

  Attributes:
    state_size: States N of a channel.
    num_outputs: Outputs M of a channel's system.
    measure: What A and B begin with: a key of `hippo.MEASURES`.
    learned: Whether A, B and the step sizes are learned (LSSL) or not (LSSL-f).
    alpha: Of the generalised bilinear rule; 1/2 is the bilinear one.
    dt_min: Least initial step size.
    dt_max: Largest initial step size.
  """

  state_size: int = 64
  num_outputs: int = 1
  measure: str = "legs"
  learned: bool = True
  alpha: float = 0.5
  dt_min: float = 0.001
  dt_max: float = 0.1

  def __post_init__(self):
    super().__post_init__()
    if self.measure not in hippo.MEASURES:
      raise ValueError(
        f"LSSL needs measure in {tuple(hippo.MEASURES)}; got {self.measure!r}"
      )

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    x = ops.segments.clear_padding(x, segment_ids)
    y, state = self._system(x, state, segment_ids)
    out = layers.projection(
      self.features,
      ("heads", "embed"),
      use_bias=True,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name="out",
    )
    y = nn.gelu(y.astype(self.dtype), approximate=False).reshape(*x.shape[:2], -1)
    y = out(y).astype(x.dtype)
    return ops.segments.clear_padding(y, segment_ids), state

  def _system(self, x, state=None, segment_ids=None):
    """C h + D x [B, T, D, M], and the last h."""
    width, M, N = self.features, self.num_outputs, self.state_size
    A, B = hippo.MEASURES[self.measure](N)
    log_dt = np.linspace(np.log(self.dt_min), np.log(self.dt_max), width)
    if self.learned:
      A, B, log_dt = (
        self._param(
          name, lambda _, shape, dtype, z=z: jnp.asarray(z, dtype), axes, *z.shape
        )
        for name, z, axes in (
          ("A", A, (None, None)),
          ("B", B, (None,)),
          ("log_dt", log_dt, ("heads",)),
        )
      )
    a, b = discretize.dense_generalized_bilinear(
      jnp.asarray(A, jnp.float32),
      jnp.asarray(B, jnp.float32),
      jnp.exp(jnp.asarray(log_dt, jnp.float32)),
      self.alpha,
    )
    normal = nn.initializers.normal(1.0)
    C = self._param("C", normal, ("heads", None, None), width, M, N)
    D = self._param("D", normal, ("heads", None), width, M)
    x = x.astype(jnp.float32)
    y, last = ops.linear_system(
      x,
      a,
      b,
      C,
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    return y + D * x[..., None], last

  def _param(self, name, init, axes, *shape):
    init = nn.with_logical_partitioning(init, axes)
    return self.param(name, init, shape, self.param_dtype)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> Float[Array, "B D N"]:
    return jnp.zeros((batch_size, self.features, self.state_size))
