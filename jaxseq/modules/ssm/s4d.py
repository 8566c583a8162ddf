"""S4D (Gu et al. 2022, arXiv:2206.11893).

    dh/dt = Lambda h + B x,   y = 2 Re(C h) + D x            one system for each channel
    output = GLU(GELU(y))

Lambda = -exp(a) + i w is diagonal, and one state of each conjugate pair is kept. It
begins with real parts of -1/2 and imaginary parts (sec. 4) of

    legs   the eigenvalues of the normal part of HiPPO-LegS
    inv    (N / pi) (N / (2n + 1) - 1)
    lin    pi n

B begins with that of HiPPO in the basis of its eigenvectors, or with ones. The gated
unit after GELU is that of the authors' layer.
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

__all__ = ["S4D"]

RULES = ("zero_order_hold", "bilinear")


def _legs(size):
  parts = hippo.normal_plus_low_rank("legs", size)
  return parts.eigenvalues[: size // 2].imag, parts.B[: size // 2]


def _inverse(size):
  n = np.arange(size // 2)
  return size / np.pi * (size / (2 * n + 1) - 1), np.ones(size // 2)


def _linear(size):
  return np.pi * np.arange(size // 2), np.ones(size // 2)


SPECTRA = {"legs": _legs, "inv": _inverse, "lin": _linear}


class S4D(Mixer):
  """A diagonal linear system for each channel.

  Attributes:
    state_size: States N of a channel, N / 2 of them kept.
    spectrum: What Lambda begins with: "legs", "inv" or "lin".
    discretization: "zero_order_hold" or "bilinear".
    dt_min: Least initial step size.
    dt_max: Largest initial step size.
  """

  state_size: int = 64
  spectrum: str = "legs"
  discretization: str = "zero_order_hold"
  dt_min: float = 0.001
  dt_max: float = 0.1

  def __post_init__(self):
    super().__post_init__()
    if self.state_size % 2:
      raise ValueError(f"S4D needs an even state_size; got {self.state_size}")
    if self.spectrum not in SPECTRA:
      raise ValueError(f"S4D needs spectrum in {tuple(SPECTRA)}; got {self.spectrum!r}")
    if self.discretization not in RULES:
      raise ValueError(
        f"S4D needs discretization in {RULES}; got {self.discretization!r}"
      )

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    x = ops.segments.clear_padding(x, segment_ids)
    y, state = self._system(x, state, segment_ids)
    glu = layers.GLU(self.features, self.dtype, self.param_dtype, name="glu")
    y = glu(nn.gelu(y.astype(self.dtype))).astype(x.dtype)
    return ops.segments.clear_padding(y, segment_ids), state

  def _system(self, x, state=None, segment_ids=None):
    """2 Re(C h) + D x, and the last h."""
    N = self.state_size // 2
    frequencies, inputs = SPECTRA[self.spectrum](self.state_size)
    pair = lambda z: np.stack([z.real, z.imag], axis=-1)
    constant = lambda z: (
      lambda _, shape, dtype: jnp.broadcast_to(z, shape).astype(dtype)
    )
    half = nn.initializers.normal(0.5**0.5)  # So that |C|^2 is 1 on average.

    log_dt = self._param("log_dt", time_scales.log_step_init(self.dt_min, self.dt_max))
    log_decay = self._param("log_decay", constant(np.log(0.5)), N)
    frequency = self._param("frequency", constant(frequencies), N)
    B = self._param("B", constant(pair(inputs + 0j)), N, 2)
    C = self._param("C", half, N, 2)
    D = self._param("D", nn.initializers.normal(1.0))
    eigenvalues = jax.lax.complex(-jnp.exp(log_decay), frequency)
    a, b = discretize.RULES[self.discretization](eigenvalues, jnp.exp(log_dt)[:, None])
    x = x.astype(jnp.float32)
    y, last = ops.linear_system(
      x,
      a,
      b * jax.lax.complex(B[..., 0], B[..., 1]),
      2 * jax.lax.complex(C[..., 0], C[..., 1])[:, None],
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    return y[..., 0] + D * x, last

  def _param(self, name, init, *shape):
    """With the axis of channels first."""
    axes = ("heads", *[None] * len(shape))
    init = nn.with_logical_partitioning(init, axes)
    return self.param(name, init, (self.features, *shape), self.param_dtype)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> Complex[Array, "B D N"]:
    shape = (batch_size, self.features, self.state_size // 2)
    return jnp.zeros(shape, jnp.complex64)
