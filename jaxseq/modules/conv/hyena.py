"""Hyena (Poli et al. 2023, arXiv:2302.10866), of which HyenaDNA is made.

    x_1, .., x_N, v = conv(u W + b)                    conv: short, one filter a channel
    z_N = x_N * v,   z_n = x_n * (h_n conv z_{n+1} + d_n z_{n+1}),   y = z_1 W_o + b_o

(Def. 3.1 as in the authors' code: of order N are N products and N - 1 long
convolutions, so that order 2, which they use, is y = x_1 * (h conv (x_2 * v)).) The
filters h are those of `layers.ImplicitFilter`. The defaults are those of HyenaDNA
(Nguyen et al. 2023, arXiv:2306.15794), but for the length.

An implicit filter has no state smaller than its window, the last `max_length` inputs of
each long convolution; what is further back is forgotten. The Laughing Hyena
distillation (`convert.laughing_hyena`) finds a small one.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.layers import linear_init
from jaxseq.modules.mixer import Mixer

__all__ = ["CONV_SIZE", "Hyena", "HyenaState"]

CONV_SIZE = 3  # Taps W of the short convolution.


class HyenaState(NamedTuple):
  """What the layer carries.

  Attributes:
    short: The last inputs of the short convolution, for x_1 .. x_N and v.
    long: For h_{N-1} .. h_1 the last inputs of the long ones.
  """

  short: Float[Array, "B W-1 (N+1)D"]
  long: tuple[Float[Array, "B L-1 D"], ...]


class Hyena(Mixer):
  """Long convolutions and gates by turns.

  Attributes:
    order: Products N of projections, at least 2.
    max_length: Taps L of the long filters. It is part of what they are: the shapes that
      they can have are stretched to it.
    filter_width: Hidden units of the network that makes the filters.
    num_bands: Frequencies of its input features.
    sine_frequency: Initial frequency of its activation.
  """

  order: int = 2
  max_length: int = 1024
  filter_width: int = 64
  num_bands: int = 2
  sine_frequency: float = 10.0

  def __post_init__(self):
    super().__post_init__()
    if self.order < 2:
      raise ValueError(f"Hyena needs order >= 2; got {self.order}")

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    N, D = self.order, self.features
    before = HyenaState(None, (None,) * (N - 1)) if state is None else state
    u = ops.segments.clear_padding(x, segment_ids)
    axes = (None, "heads")
    inputs, short = ops.short_conv(
      self._project(u, (N + 1) * D, "in", ("embed", "heads")),
      self._param("conv", linear_init.kernel_init, (CONV_SIZE, (N + 1) * D), axes),
      self._param("conv_bias", linear_init.bias_init(CONV_SIZE), ((N + 1) * D,)),
      initial_state=before.short,
      segment_ids=segment_ids,
    )
    *gates, v = jnp.split(inputs, N + 1, axis=-1)
    convolve = self._convolution(segment_ids)
    z, long = gates.pop() * v, []
    for n, own in enumerate(before.long):
      z, last = convolve(z, own, slice(n * D, (n + 1) * D))
      z = gates.pop() * z
      long.append(last)
    y = self._project(z, D, "out", ("heads", "embed")).astype(x.dtype)
    y = ops.segments.clear_padding(y, segment_ids)
    return y, HyenaState(short, tuple(long))

  def _convolution(self, segment_ids):
    """The long convolutions as a function of inputs, state and a slice of channels."""
    width = (self.order - 1) * self.features
    filters = layers.ImplicitFilter(
      width,
      self.max_length,
      self.filter_width,
      self.num_bands,
      self.sine_frequency,
      param_dtype=self.param_dtype,
      name="filter",
    )()
    skip = self._param("skip", nn.initializers.normal(1.0), (width,))
    return lambda z, state, channels: ops.fft_conv(
      z,
      filters[:, channels],
      skip[channels],
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )

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
  def initial_state(self, batch_size: int) -> HyenaState:
    N, D = self.order, self.features
    short = jnp.zeros((batch_size, CONV_SIZE - 1, (N + 1) * D))
    long = jnp.zeros((batch_size, self.max_length - 1, D))
    return HyenaState(short, (long,) * (N - 1))
