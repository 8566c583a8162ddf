"""DSS (Gupta et al. 2022, arXiv:2203.14343).

    K_l = Re sum_n C_n (exp(lambda_n dt) - 1) / lambda_n exp(lambda_n dt l)        "exp"
    K_l = Re sum_n C_n / lambda_n softmax_l(lambda_n dt l),   l < L            "softmax"
    y = K * x + D x,    output = GELU(y) W + b

A diagonal system for each channel whose input vector is all ones, so that a kernel is
that of a zero-order hold ("exp": DSS_EXP), or one whose terms are normalised over L
tokens ("softmax": DSS_SOFTMAX; prop. 1). Lambda is shared by all channels, begins with
the eigenvalues with positive imaginary part of the normal part of HiPPO-LegS, and no
conjugates are added (sec. 3.3). In DSS_EXP its real part is -exp(a); in DSS_SOFTMAX it
is free, and a mode that grows stays finite over L tokens only.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex

from jaxseq import layers, ops
from jaxseq.layers import time_scales
from jaxseq.modules.mixer import Mixer
from jaxseq.ops.ssm import discretize, hippo

__all__ = ["DSS"]

VARIANTS = ("exp", "softmax")


class DSS(Mixer):
  """A diagonal linear system for each channel, without conjugate pairs.

  Attributes:
    state_size: States N of a channel, complex.
    variant: "exp" or "softmax".
    kernel_length: Tokens L over which the softmax normalises.
    dt_min: Least initial step size.
    dt_max: Largest initial step size.
  """

  state_size: int = 64
  variant: str = "exp"
  kernel_length: int = 1024
  dt_min: float = 0.001
  dt_max: float = 0.1

  def __post_init__(self):
    super().__post_init__()
    if self.variant not in VARIANTS:
      raise ValueError(f"DSS needs variant in {VARIANTS}; got {self.variant!r}")

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    x = ops.segments.clear_padding(x, segment_ids)
    y, state = self._system(x, state, segment_ids)
    out = layers.projection(
      self.features,
      ("embed", "embed_out"),
      use_bias=True,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name="out",
    )
    y = out(nn.gelu(y.astype(self.dtype), approximate=False)).astype(x.dtype)
    return ops.segments.clear_padding(y, segment_ids), state

  def _system(self, x, state=None, segment_ids=None):
    """Re(C h) + D x, and the last h."""
    width, N = self.features, self.state_size
    values = hippo.normal_plus_low_rank("legs", 2 * N).eigenvalues[:N]
    constant = lambda z: (
      lambda _, shape, dtype: jnp.broadcast_to(z, shape).astype(dtype)
    )
    step = time_scales.log_step_init(self.dt_min, self.dt_max)
    normal = nn.initializers.normal(1.0)
    log_dt = self._param("log_dt", step, (width,), ("heads",))
    imaginary = self._param("lambda_imaginary", constant(values.imag), (N,), (None,))
    C = self._param("C", normal, (width, N, 2), ("heads", None, None))
    D = self._param("D", normal, (width,), ("heads",))
    if self.variant == "exp":
      log_decay = self._param("log_decay", constant(np.log(0.5)), (N,), (None,))
      real = -jnp.exp(log_decay)
    else:
      real = self._param("lambda_real", constant(values.real), (N,), (None,))
    eigenvalues = jax.lax.complex(real, imaginary)
    dt = jnp.exp(log_dt)[:, None]
    a, b = discretize.zero_order_hold(eigenvalues, dt)
    if self.variant == "softmax":
      b = _softmax_weights(eigenvalues * dt, self.kernel_length) / eigenvalues
    x = x.astype(jnp.float32)
    y, last = ops.linear_system(
      x,
      a,
      b,
      jax.lax.complex(C[..., 0], C[..., 1])[:, None],
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    return y[..., 0] + D * x, last

  @nn.nowrap
  def initial_state(self, batch_size: int) -> Complex[Array, "B D N"]:
    return jnp.zeros((batch_size, self.features, self.state_size), jnp.complex64)


def _softmax_weights(z, length):
  """1 / sum_l exp(z l) over l < length: what exp(z l) is multiplied by in a softmax.

  A geometric series, summed from its largest term. Where the sum is near 0, as it is at
  the roots of unity, its reciprocal is held by the authors' epsilon (appendix A.2).
  """
  grows = z.real > 0
  small = jnp.where(grows, -z, z)  # Of a real part that is not positive.
  share = jnp.expm1(small) * _reciprocal(jnp.expm1(small * length))
  return share * jnp.exp(-jnp.where(grows, z, 0) * (length - 1))


def _reciprocal(z, epsilon=1e-7):
  return z.conj() / (z.real**2 + z.imag**2 + epsilon)
