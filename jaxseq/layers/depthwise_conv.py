"""Depthwise convolutions that look both ways, over a sequence or over a grid.

    y_t = b + sum_w weight_w x_{t+w}          w = -r .. r, or in [-r, r]^2 on a grid

Beyond the border, at padding and in other documents x counts as zero. A grid of h x w
tokens is written row by row; each row of the batch is one image.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxseq.ops import segments

__all__ = ["DepthwiseConv", "depthwise_conv"]


class DepthwiseConv(nn.Module):
  """Mixes each channel with its neighbours in time, or on the grid.

  Attributes:
    kernel_size: Taps along each axis, an odd number.
    grid: Rows and columns of the tokens; None is a sequence.
    use_bias: Whether there is a b.
    axes: Logical name of the channels' axis.
    kernel_init: Of the weights [taps, (taps,) 1, D]; the layout of `nn.Conv`, so that
      the initialisers see the fans of a depthwise convolution.
    dtype: Of the output. Sums are float32.
    param_dtype: Of the parameters.
  """

  kernel_size: int
  grid: tuple[int, int] | None = None
  use_bias: bool = False
  axes: str | None = "heads"
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
  dtype: DTypeLike = jnp.bfloat16
  param_dtype: DTypeLike = jnp.float32

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
    y = depthwise_conv(x, weight, grid=self.grid, segment_ids=segment_ids)
    if self.use_bias:
      zeros = nn.with_logical_partitioning(nn.initializers.zeros, (self.axes,))
      y = y + self.param("bias", zeros, x.shape[-1:], self.param_dtype)
    return segments.clear_padding(y, segment_ids).astype(self.dtype)


def depthwise_conv(
  x: Float[Array, "B T *D"],
  weight: Float[Array, "W ..."],
  *,
  grid: tuple[int, int] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
) -> Float[Array, "B T *D"]:
  """The sum over neighbours, in float32.

  Args:
    x: Inputs. Outputs at padding have no meaning.
    weight: First one axis of taps, or two on a grid, all odd; what follows is broadcast
      with x: [D] is a convolution, [B, T, D] has weights for each token.
    grid: Rows and columns, T in all; None is a sequence.
    segment_ids: Packed documents; see `ops.segments`.

  Raises:
    ValueError: If T is not the size of the grid.
  """
  B, T, *channels = x.shape
  if grid is not None and math.prod(grid) != T:
    raise ValueError(
      f"a grid of {grid[0]} x {grid[1]} needs T = {math.prod(grid)}; got {T}"
    )
  shape = (T,) if grid is None else tuple(grid)
  taps = weight.shape[: len(shape)]
  near = _neighbours(x.reshape(B, *shape, *channels), taps)
  near = (n.reshape(x.shape) for n in near)
  if segment_ids is not None:
    numbers = _numbers(segment_ids)
    theirs = _neighbours(numbers.reshape(B, *shape), taps)
    same = (n.reshape(B, T) == numbers for n in theirs)
    expand = lambda mask: mask.reshape(B, T, *[1] * len(channels))
    near = (jnp.where(expand(mask), n, 0) for mask, n in zip(same, near))
  kind = jnp.promote_types(x.dtype, jnp.float32)
  weights = weight.astype(kind).reshape(-1, *weight.shape[len(taps) :])
  return sum(w * n for w, n in zip(weights, near))


def _numbers(segment_ids):
  """Numbers of the documents from 1; 0 at padding."""
  valid, _, index = segments.parse(segment_ids)
  return jnp.where(valid, index + 1, 0)


def _neighbours(x, taps):
  """For each tap, x moved so that the neighbour stands at the token; zeros beyond."""
  shape = x.shape[1 : 1 + len(taps)]
  margins = [(n // 2, n // 2) for n in taps]
  x = jnp.pad(x, [(0, 0), *margins, *[(0, 0)] * (x.ndim - 1 - len(taps))])
  for start in np.ndindex(*taps):
    yield x[(slice(None), *(slice(s, s + n) for s, n in zip(start, shape)))]
