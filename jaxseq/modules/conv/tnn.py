"""TNN, the Toeplitz neural network (Qin et al. 2023, arXiv:2305.04749).

    u, v = silu(x W_u + b_u), silu(x W_v + b_v),    y = (u * T v) W_o + b_o
    T_ij = lambda^|i-j| RPE(i - j)                one number a channel (sec. 3.2 to 3.5)

A gated Toeplitz unit: RPE, the relative position encoder, is a network of the distance,
RPE(d) = f_K(.. f_1(d W + b)) with f(z) = relu(norm(z)) W + b and the RMS norm without a
scale. It is not stretched to a length, so that longer sequences than in training only
bring new distances; lambda, which is fixed, makes them count little.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.layers import linear_init
from jaxseq.modules.mixer import Mixer

__all__ = ["TNN", "BidirectionalTNN"]


class TNN(Mixer):
  """The gated Toeplitz unit, causal.

  Attributes:
    expand: Channels of u and v, as a multiple of `features`.
    decay: lambda.
    max_length: Distances L that are seen, 0 among them; it sizes the state. At the
      default decay lambda^L is 3e-5.
    encoder_width: Hidden units of RPE.
    encoder_layers: Hidden layers of RPE after the first.
  """

  expand: int = 3
  decay: float = 0.99
  max_length: int = 1024
  encoder_width: int = 64
  encoder_layers: int = 3

  @property
  def width(self) -> int:
    return self.expand * self.features

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    inputs = ops.segments.clear_padding(x, segment_ids)
    u = nn.silu(self._project(inputs, self.width, "u", ("embed", "heads")))
    v = nn.silu(self._project(inputs, self.width, "v", ("embed", "heads")))
    v, state = self._mix(v, state, segment_ids)
    y = self._project(u * v, self.features, "out", ("heads", "embed"))
    return ops.segments.clear_padding(y.astype(x.dtype), segment_ids), state

  def _mix(self, v, state, segment_ids):
    return ops.fft_conv(
      v,
      self._coefficients(jnp.arange(self.max_length)),
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )

  def _coefficients(self, distances):
    encode = PositionEncoder(
      self.width,
      self.encoder_width,
      self.encoder_layers,
      self.param_dtype,
      name="encoder",
    )
    distances = distances.astype(jnp.float32)
    return self.decay ** jnp.abs(distances)[:, None] * encode(distances)

  def _project(self, x, width, name, axes):
    return layers.projection(
      width,
      axes,
      use_bias=True,
      kernel_init=linear_init.kernel_init,
      bias_init=linear_init.bias_init(x.shape[-1]),
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name=name,
    )(x)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> Float[Array, "B L-1 ED"]:
    return jnp.zeros((batch_size, self.max_length - 1, self.width))


class BidirectionalTNN(TNN):
  """The unit that looks both ways; distances to tokens that come are negative.

  Attributes:
    max_length: Not used: all of a document is seen.
  """

  def _mix(self, v, state, segment_ids):
    self.refuse_state(state)
    T = v.shape[1]
    coefficients = self._coefficients(jnp.arange(1 - T, T))
    v = ops.two_sided_conv(
      v,
      coefficients[T - 1 :],
      coefficients[: T - 1][::-1],
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    return v, None

  @nn.nowrap
  def initial_state(self, batch_size: int):
    return Mixer.initial_state(self, batch_size)


class PositionEncoder(nn.Module):
  """RPE, a network from distances to coefficients, float32.

  Attributes:
    num_channels: Coefficients for each distance.
    width: Hidden units.
    num_hidden: Hidden layers after the first.
    param_dtype: Of the parameters.
  """

  num_channels: int
  width: int
  num_hidden: int
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, distances: Float[Array, "N"]) -> Float[Array, "N D"]:
    z = self._linear("first", distances[:, None], self.width)
    for i in range(self.num_hidden):
      z = self._linear(f"hidden_{i}", self._activate(z), self.width)
    return self._linear("out", self._activate(z), self.num_channels, "heads")

  def _activate(self, z):
    return nn.relu(layers.RMSNorm(epsilon=1e-8, use_scale=False)(z))

  def _linear(self, name, x, size, axis=None):
    return layers.projection(
      size,
      (None, axis),
      use_bias=True,
      kernel_init=linear_init.kernel_init,
      bias_init=linear_init.bias_init(x.shape[-1]),
      precision="highest",
      param_dtype=self.param_dtype,
      name=name,
    )(x)
