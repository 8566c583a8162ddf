"""The recurrent block of Griffin and its RG-LRU (De et al. 2024, arXiv:2402.19427).

    r_t = sigmoid(W_a x_t + b_a),   i_t = sigmoid(W_x x_t + b_x)      block-diagonal W
    log a_t = -8 r_t softplus(c)
    h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t * x_t)                         (eq. 1 to 4)
    block: W_out (gelu(W_y u) * RG-LRU(conv(W_x u)))                        (sec. 2.3)

The first token of a document enters without the factor sqrt(1 - a^2), as in the
authors' code: there is no state that it would have to be balanced with.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer

__all__ = ["RGLRU", "RGLRUState"]

CONV_SIZE = 4  # Taps W of the short convolution.
STEEPEST = 1000.0  # Bound on the derivative of sqrt(1 - a^2) by 1 - a^2.


class RGLRUState(NamedTuple):
  """What the block carries.

  Attributes:
    h: The recurrence's state.
    conv: The last inputs of the convolution.
    started: Whether there was a token before.
  """

  h: Float[Array, "B N"]
  conv: Float[Array, "B W-1 N"]
  started: Bool[Array, "B"]


class RGLRU(Mixer):
  """A gated diagonal recurrence beside a gate, after a short convolution.

  Attributes:
    num_heads: Blocks of the gates' matrices.
    width: Channels N of the recurrence. D if None.
  """

  num_heads: int = 4
  width: int | None = None

  def __post_init__(self):
    super().__post_init__()
    if self.num_channels % self.num_heads:
      raise ValueError(
        f"RGLRU needs num_heads that divide its width {self.num_channels}; "
        f"got {self.num_heads}"
      )

  @property
  def num_channels(self) -> int:
    return self.width or self.features

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    B, T, _ = x.shape
    u = ops.segments.clear_padding(x, segment_ids)
    before = None if state is None else state.conv
    state = self.initial_state(B) if state is None else state

    def project(x, width, name, axes=("embed", "heads")):
      return layers.projection(
        width,
        axes,
        use_bias=True,
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        name=name,
      )(x)

    side = nn.gelu(project(u, self.num_channels, "side"))
    small = nn.initializers.variance_scaling(0.01, "fan_in", "normal")
    y, conv = ops.short_conv(
      project(u, self.num_channels, "input"),
      self._param("conv", small, (CONV_SIZE, self.num_channels), (None, "heads")),
      self._param("conv_bias", nn.initializers.zeros, (self.num_channels,)),
      initial_state=before,
      segment_ids=segment_ids,
    )
    y, h, started = self._recurrence(y, state, segment_ids)
    y = project(side * y.astype(self.dtype), self.features, "out", ("heads", "embed"))
    y = ops.segments.clear_padding(y.astype(x.dtype), segment_ids)
    return y, RGLRUState(h, conv, started)

  def _recurrence(self, x, state, segment_ids):
    input_gate = nn.sigmoid(self._blocks(x, "input_gate"))
    recurrence_gate = nn.sigmoid(self._blocks(x, "recurrence_gate"))
    rates = self._param("rates", _rate_init, (self.num_channels,))
    log_a = -8.0 * recurrence_gate * nn.softplus(rates)
    factor = _bounded_sqrt(-jnp.expm1(2 * log_a))
    length = state.started.astype(jnp.int32)
    first = ops.segments.positions(segment_ids, length, x.shape[:2]) == 0
    factor = jnp.where(first[..., None], 1, factor)
    h, last = ops.diagonal_recurrence(
      jnp.exp(log_a),
      factor * input_gate * x.astype(jnp.float32),
      initial_state=state.h,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    started = ops.segments.length_after(segment_ids, length, x.shape[1]) > 0
    return h, last, started

  def _blocks(self, x, name):
    """A block-diagonal projection, in float32."""
    B, T, N = x.shape
    H = self.num_heads
    init = nn.initializers.variance_scaling(1.0, "fan_in", "normal", batch_axis=0)
    W = self._param(name, init, (H, N // H, N // H), ("heads", None, None))
    b = self._param(f"{name}_bias", nn.initializers.zeros, (N,))
    x = x.astype(self.dtype).reshape(B, T, H, N // H)
    return ops.product("bthi,hij->bthj", x, W, like=x).reshape(B, T, N) + b

  @nn.nowrap
  def initial_state(self, batch_size: int) -> RGLRUState:
    h = jnp.zeros((batch_size, self.num_channels))
    conv = jnp.zeros((batch_size, CONV_SIZE - 1, self.num_channels))
    return RGLRUState(h, conv, jnp.zeros(batch_size, bool))


@jax.custom_jvp
def _bounded_sqrt(x):
  """The root, whose derivative is held at `STEEPEST` near 0, where a is 1."""
  return jnp.sqrt(x)


@_bounded_sqrt.defjvp
def _bounded_sqrt_jvp(primals, tangents):
  (x,), (dx,) = primals, tangents
  root = jnp.sqrt(x)
  return root, dx / (2 * jnp.maximum(root, 0.5 / STEEPEST))


def _rate_init(key, shape, dtype):
  """a^8 uniform in [0.9, 0.999] where the gate is open (sec. 2.4)."""
  power = jax.random.uniform(key, shape, dtype, 0.9, 0.999)
  return jnp.log(jnp.expm1(-jnp.log(power) / 8))
