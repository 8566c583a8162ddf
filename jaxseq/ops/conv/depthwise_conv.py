"""Depthwise convolutions that look both ways, over a sequence or over a grid.

    y_t = sum_w weight_w x_{t+w}          w = -r .. r, or in [-r, r]^2 on a grid

Beyond the border, at padding and in other documents x counts as zero. A grid of h x w
tokens is written row by row; each row of the batch is one image.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxseq.ops import dispatch, segments
from jaxseq.ops.dispatch import Form

__all__ = ["IMPLEMENTATIONS", "depthwise_conv"]

FEW_TAPS = 25  # With more, a sum over taps takes seconds to compile.


def depthwise_conv(
  x: Float[Array, "B T *D"],
  weight: Float[Array, "W ..."],
  *,
  grid: tuple[int, int] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  implementation: str = "auto",
) -> Float[Array, "B T *D"]:
  """The sum over neighbours, in float32.

  Args:
    x: Inputs. Outputs at padding have no meaning.
    weight: First one axis of taps, or two on a grid, all odd; what follows is broadcast
      with x: [D] is a convolution, [B, T, D] has weights for each token.
    grid: Rows and columns, T in all; None is a sequence.
    segment_ids: Packed documents; see `ops.segments`.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Raises:
    ValueError: If T is not the size of the grid, or `implementation` is unknown.
    NotImplementedError: If the implementation named cannot take this call.
  """
  T = x.shape[1]
  if grid is not None and math.prod(grid) != T:
    raise ValueError(
      f"a grid of {grid[0]} x {grid[1]} needs T = {math.prod(grid)}; got {T}"
    )
  shape = (T,) if grid is None else tuple(grid)
  args = x, weight, shape, segment_ids
  run = dispatch.select("depthwise_conv", IMPLEMENTATIONS, implementation, T, *args)
  return run(*args)


def parallel(x, weight, shape, segment_ids):
  """The sum over taps of products with moved inputs."""
  B, T, *channels = x.shape
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


def convolution(x, weight, shape, segment_ids):
  """XLA's own convolution."""
  kind = jnp.promote_types(x.dtype, jnp.float32)
  spatial = "HW"[-len(shape) :]
  axes = f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"
  y = jax.lax.conv_general_dilated(
    x.astype(kind).reshape(len(x), *shape, x.shape[-1]),
    weight.astype(kind)[..., None, :],
    (1,) * len(shape),
    "SAME",
    dimension_numbers=axes,
    feature_group_count=x.shape[-1],
    precision="highest",
  )
  return y.reshape(x.shape)


def _refusal(x, weight, shape, segment_ids):
  if x.ndim != 3 or weight.ndim != len(shape) + 1:
    return "it needs x [B, T, D] and one weight for each tap and channel"
  if segment_ids is not None:
    return "it cannot keep documents apart"


def _many_taps(x, weight, shape, segment_ids):
  if _refusal(x, weight, shape, segment_ids) is not None:
    return False
  return math.prod(weight.shape[: len(shape)]) > FEW_TAPS


IMPLEMENTATIONS = {
  "parallel": Form(parallel, slow=_many_taps),
  "convolution": Form(convolution, _refusal),
}
