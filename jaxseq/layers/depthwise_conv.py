"""A layer of `ops.depthwise_conv`, with parameters."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxseq.ops import segments
from jaxseq.ops.conv.depthwise_conv import depthwise_conv

__all__ = ["DepthwiseConv", "depthwise_conv"]


class DepthwiseConv(nn.Module):
  """Mixes each channel with its neighbours in time, or on the grid.

  Attributes:
    kernel_size: Taps along each axis, an odd number.
    grid: Rows and columns of the tokens; None is a sequence.
    use_bias: Whether a bias is added.
    axes: Logical name of the channels' axis.
    kernel_init: Of the weights [taps, (taps,) 1, D]; the layout of `nn.Conv`, so that
      the initialisers see the fans of a depthwise convolution.
    dtype: Of the output. Sums are float32.
    param_dtype: Of the parameters.
    implementation: Form of `ops.depthwise_conv`.
  """

  kernel_size: int
  grid: tuple[int, int] | None = None
  use_bias: bool = False
  axes: str | None = "heads"
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
  dtype: DTypeLike = jnp.bfloat16
  param_dtype: DTypeLike = jnp.float32
  implementation: str = "auto"

  @nn.compact
  def __call__(
    self, x: Float[Array, "B T *D"], segment_ids: Int[Array, "B T"] | None = None
  ) -> Float[Array, "B T *D"]:
    """Channels are the last axis of x; axes between share the weights."""
    taps = (self.kernel_size,) * (1 if self.grid is None else 2)
    names = (None,) * (len(taps) + 1) + (self.axes,)
    init = nn.with_logical_partitioning(self.kernel_init, names)
    shape = (*taps, 1, x.shape[-1])
    weight = self.param("kernel", init, shape, self.param_dtype)[..., 0, :]
    y = depthwise_conv(
      x,
      weight,
      grid=self.grid,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    if self.use_bias:
      zeros = nn.with_logical_partitioning(nn.initializers.zeros, (self.axes,))
      y = y + self.param("bias", zeros, x.shape[-1:], self.param_dtype)
    return segments.clear_padding(y, segment_ids).astype(self.dtype)
