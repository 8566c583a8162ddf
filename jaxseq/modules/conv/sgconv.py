"""SGConv, structured global convolution (Li et al. 2022, arXiv:2210.09298, sec. 4).

    k = [2^S-1 up_0(w_0), .., 2 up_S-2(w_S-2), up_S-1(w_S-1)] / Z
    y = gelu(k conv x + d x) W + b

The filter of L taps is put together from S pieces w of d taps each, the first two as
they are and each further one interpolated to twice the length of the one before and
weighing half of it: log L parameters, and a filter that decays. Z is the norm of the
filter at initialisation and stays what it was.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.layers import linear_init
from jaxseq.modules.mixer import Mixer

__all__ = ["BidirectionalSGConv", "SGConv"]


class SGConv(Mixer):
  """One long convolution with multi-scale filters, causal.

  Attributes:
    max_length: Taps L of the filters.
    kernel_size: Taps of each piece.
    decay_min: How much less a piece weighs than that before it, in the first channel.
    decay_max: And in the last; evenly spread between.
  """

  max_length: int = 1024
  kernel_size: int = 64
  decay_min: float = 2.0
  decay_max: float = 2.0

  def __post_init__(self):
    super().__post_init__()
    if self.kernel_size > self.max_length:
      raise ValueError(
        f"SGConv needs kernel_size <= max_length = {self.max_length}; "
        f"got {self.kernel_size}"
      )

  @property
  def num_scales(self) -> int:
    return 1 + math.ceil(math.log2(self.max_length / self.kernel_size))

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    u = ops.segments.clear_padding(x, segment_ids)
    skip = self._param("skip", nn.initializers.normal(1.0), (self.features,))
    y, state = self._convolve(u, skip, state, segment_ids)
    y = layers.projection(
      self.features,
      ("embed", "embed_out"),
      use_bias=True,
      kernel_init=linear_init.kernel_init,
      bias_init=linear_init.bias_init(self.features),
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name="out",
    )(nn.gelu(y, approximate=False))
    return ops.segments.clear_padding(y.astype(x.dtype), segment_ids), state

  def _convolve(self, u, skip, state, segment_ids):
    return ops.fft_conv(
      u,
      self._filter("forward"),
      skip,
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )

  def _filter(self, name):
    shape = (self.num_scales, self.kernel_size, self.features)
    init = nn.initializers.normal(1.0)
    pieces = self._param(name, init, shape, (None, None, "embed"))
    pieces = pieces.astype(jnp.float32)
    decay = jnp.linspace(self.decay_min, self.decay_max, self.features)
    scales = [2 ** max(0, i - 1) for i in range(self.num_scales)]
    kernel = jnp.concatenate(
      [
        decay ** (self.num_scales - 1 - i)
        * jax.image.resize(w, (scale * self.kernel_size, self.features), "linear")
        for i, (w, scale) in enumerate(zip(pieces, scales))
      ]
    )
    norm = lambda key, shape, dtype: jnp.linalg.norm(kernel, axis=0).astype(dtype)
    Z = self._param(f"{name}_norm", norm, (self.features,))
    return (kernel / jax.lax.stop_gradient(Z))[: self.max_length]

  def _param(self, name, init, shape, axes=("embed",)):
    init = nn.with_logical_partitioning(init, axes)
    return self.param(name, init, shape, self.param_dtype)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> Float[Array, "B L-1 D"]:
    return jnp.zeros((batch_size, self.max_length - 1, self.features))


class BidirectionalSGConv(SGConv):
  """With a second filter for the tokens that come."""

  def _convolve(self, u, skip, state, segment_ids):
    self.refuse_state(state)
    y = ops.two_sided_conv(
      u,
      self._filter("forward"),
      self._filter("backward"),
      skip,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    return y, None

  @nn.nowrap
  def initial_state(self, batch_size: int):
    return Mixer.initial_state(self, batch_size)
