"""ConvS5, a state space over frames (Smith et al. 2023, arXiv:2310.19694).

    dX/dt = Lambda X + B * U,   Y = 2 Re(C * X) + D * U      by a zero-order hold of dt
    output = GELU(norm(Y))                                  of each frame, in groups

A token is a frame of h x w pixels with c channels, written pixel by pixel; features are
h w c. B, C and D are convolutions over the frame, Lambda is one number a state, the
same at all pixels (sec. 3.3): each pixel's states are an S5 layer's, driven by its
neighbourhood. They begin as S5's, from HiPPO-LegS (sec. 3.4).

The output is the "standard" one of the authors' code; that of their Moving-MNIST models
has a residual block of two convolutions instead of D. As there Re Lambda is kept below
-1e-4.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex

from jaxseq import ops
from jaxseq.layers import time_scales
from jaxseq.modules.mixer import Mixer
from jaxseq.ops.ssm import discretize, hippo

__all__ = ["ConvS5"]

NUM_GROUPS = 32  # Of the norm, or fewer, so that each has 8 channels or more.


class ConvS5(Mixer):
  """A diagonal linear system at each pixel, whose inputs and outputs are convolutions.

  Attributes:
    grid: Rows h and columns w of a frame.
    state_size: States P of a pixel, P / 2 of them kept.
    num_blocks: Blocks of HiPPO-LegS that Lambda begins with.
    kernel_size: Rows and columns of the kernels of B, C and D, an odd number.
    dt_min: Least initial step size.
    dt_max: Largest initial step size.
  """

  grid: tuple[int, int] = (4, 4)
  state_size: int = 64
  num_blocks: int = 1
  kernel_size: int = 3
  dt_min: float = 0.001
  dt_max: float = 0.1

  def __post_init__(self):
    super().__post_init__()
    if self.features % math.prod(self.grid):
      raise ValueError(
        f"ConvS5 needs a grid whose size divides features = {self.features}; "
        f"got {self.grid[0]} x {self.grid[1]}"
      )
    if self.state_size % (2 * self.num_blocks):
      raise ValueError(
        f"ConvS5 needs num_blocks that divide state_size / 2 = "
        f"{self.state_size / 2:g}; got {self.num_blocks}"
      )
    if self.kernel_size % 2 == 0:
      raise ValueError(f"ConvS5 needs an odd kernel_size; got {self.kernel_size}")

  @property
  def channels(self) -> int:
    return self.features // math.prod(self.grid)

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    frames = ops.segments.clear_padding(x, segment_ids)
    frames = frames.reshape(*x.shape[:2], *self.grid, self.channels)
    y, state = self._system(frames, state, segment_ids)
    norm = nn.GroupNorm(
      math.gcd(NUM_GROUPS, self.channels, max(self.channels // 8, 1)),
      reduction_axes=(-3, -2, -1),
      param_dtype=self.param_dtype,
      scale_init=nn.with_logical_partitioning(nn.initializers.ones, (None,)),
      bias_init=nn.with_logical_partitioning(nn.initializers.zeros, (None,)),
      name="norm",
    )
    y = nn.gelu(norm(y)).astype(x.dtype).reshape(x.shape)
    return ops.segments.clear_padding(y, segment_ids), state

  def _system(self, U, X, segment_ids):
    """2 Re(C * X) + D * U in float32, and the last X."""
    N = self.state_size // 2
    param = self._param
    real, imaginary = param("lambda_real"), param("lambda_imaginary")
    eigenvalues = jnp.minimum(real, -1e-4) + 1j * imaginary
    a, b = discretize.zero_order_hold(eigenvalues, jnp.exp(param("log_dt")))
    driven = self._convolve(U, param("B"))
    driven = b * jax.lax.complex(driven[..., :N], driven[..., N:])
    pixels = math.prod(self.grid)
    X, last = ops.diagonal_recurrence(
      jnp.tile(a, pixels),
      driven.reshape(*U.shape[:2], pixels * N),
      initial_state=X,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    X = X.reshape(driven.shape)
    X = jnp.concatenate([X.real, -X.imag], axis=-1)
    C, D = param("C"), param("D")
    return 2 * self._convolve(X, C) + self._convolve(U, D) + param("D_bias"), last

  def _convolve(self, x, kernel):
    """Each frame with a kernel, zeros beyond the border, in float32."""
    y = jax.lax.conv_general_dilated(
      x.reshape(-1, *x.shape[2:]).astype(self.dtype),
      kernel.astype(self.dtype),
      window_strides=(1, 1),
      padding="SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      precision="highest",
    )
    return y.astype(jnp.float32).reshape(*x.shape[:-1], -1)

  def _param(self, name):
    init, axes, shape = _parameters(self)[name]
    init = nn.with_logical_partitioning(init, axes)
    return self.param(name, init, shape, self.param_dtype)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> Complex[Array, "B N"]:
    size = math.prod(self.grid) * self.state_size // 2
    return jnp.zeros((batch_size, size), jnp.complex64)


def _parameters(mixer):
  """By name: initializer, axes and shape of each parameter."""
  P, c, k = mixer.state_size, mixer.channels, mixer.kernel_size
  eigenvalues, vectors = _basis(P, mixer.num_blocks)
  states = ("heads",), (P // 2,)
  constant = lambda value: lambda key, shape, dtype: jnp.asarray(value, dtype)
  he = nn.initializers.he_normal()

  def inputs(key, shape, dtype):
    """V^-1 B with real B, as real and imaginary channels."""
    B = he(key, (k * k * c, P), jnp.float32) @ vectors.conj()
    return jnp.concatenate([B.real, B.imag], axis=-1).reshape(shape).astype(dtype)

  def outputs(key, shape, dtype):
    """C V with real C, that of real and imaginary channels."""
    C = vectors.T @ he(key, (k * k * P, c), jnp.float32).reshape(k * k, P, c)
    return jnp.concatenate([C.real, C.imag], axis=1).reshape(shape).astype(dtype)

  step = time_scales.log_step_init(mixer.dt_min, mixer.dt_max)
  return {
    "lambda_real": (constant(eigenvalues.real), *states),
    "lambda_imaginary": (constant(eigenvalues.imag), *states),
    "log_dt": (step, *states),
    "B": (inputs, (None, None, None, "heads"), (k, k, c, P)),
    "C": (outputs, (None, None, "heads", None), (k, k, P, c)),
    "D": (nn.initializers.lecun_normal(), (None,) * 4, (k, k, c, c)),
    "D_bias": (nn.initializers.zeros, (None,), (c,)),
  }


@functools.cache
def _basis(size, num_blocks):
  """Eigenvalues [N] and unitary columns [2N, N] of blocks of HiPPO-LegS."""
  eigenvalues, vectors = hippo.normal_legs_eigenvectors(size // num_blocks)
  kept = size // num_blocks // 2
  vectors = np.kron(np.eye(num_blocks), vectors[:, :kept])
  return np.tile(eigenvalues[:kept], num_blocks), np.complex64(vectors)
