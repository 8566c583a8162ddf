"""Convolutions that look both ways, a filter of its own for each direction.

    y_t = sum_{l >= 0} forward_l x_{t-l} + sum_{l >= 0} backward_l x_{t+1+l}

The product with a Toeplitz matrix of any two triangles: the bidirectional TNN, SGConv.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import checks
from jaxseq.ops.conv import fft_conv

__all__ = ["IMPLEMENTATIONS", "two_sided_conv"]

IMPLEMENTATIONS = fft_conv.IMPLEMENTATIONS


def two_sided_conv(
  x: Float[Array, "B T D"],
  forward: Float[Array, "L D"],
  backward: Float[Array, "M D"],
  skip: Float[Array, "D"] | None = None,
  *,
  segment_ids: Int[Array, "B T"] | None = None,
  implementation: str = "auto",
) -> Float[Array, "B T D"]:
  """Mixes each channel over the tokens before and after.

  Args:
    x: Inputs.
    forward: Taps of the tokens so far, the current one's first.
    backward: Taps of the tokens to come, the next one's first.
    skip: Share of the input that is added to the output.
    segment_ids: Packed documents; see `ops.segments`.
    implementation: A key of `fft_conv.IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `x`. There is no state: all of a document is read.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
    NotImplementedError: If the implementation named cannot take this call.
  """
  checks.check_shapes(
    "two_sided_conv",
    x=(x, "B T D"),
    forward=(forward, "L D"),
    backward=(backward, "M D"),
    skip=(skip, "D"),
    segment_ids=(segment_ids, "B T"),
  )
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  past, _ = fft_conv.fft_conv(
    wide, forward, skip, segment_ids=segment_ids, implementation=implementation
  )
  turn = lambda a: None if a is None else jnp.flip(a, axis=1)
  future, _ = fft_conv.fft_conv(
    turn(wide),
    jnp.pad(backward, ((1, 0), (0, 0))),  # The current token is `forward`'s.
    segment_ids=turn(segment_ids),
    implementation=implementation,
  )
  return (past + turn(future)).astype(x.dtype)
