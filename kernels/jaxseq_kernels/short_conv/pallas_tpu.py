"""TPU forward. Grid [B, D / DB, T / TB], time innermost.

A block of inputs is put behind the last rows of the block before it, which stay in
VMEM; the taps are then slices of that buffer. Each input is read once and each output
written once.
"""

import jax
import jax.numpy as jnp

from jaxseq_kernels.short_conv.reference import activate

__all__ = ["LANES", "TOKENS", "forward"]

LANES = 128  # D is a multiple; the block is up to four times as wide.
TOKENS = 256  # A block of 256 x 512: 0.5 MB in float32, its copies twice buffered.
HISTORY = 8  # Rows kept from the block before: a whole tile of float32.


def forward(x, weight, bias, reach, *, activation, interpret=False):
  """See `reference.forward`; D a multiple of `LANES`, T of `TOKENS`."""
  from jax.experimental import pallas as pl
  from jax.experimental.pallas import tpu as pltpu

  B, T, D = x.shape
  taps = weight.shape[0]
  width = next(w for w in (512, 256, 128) if D % w == 0)

  def block(x_ref, weight_ref, bias_ref, reach_ref, y_ref, buffer):
    @pl.when(pl.program_id(2) == 0)
    def _():  # The first tokens of a row.
      buffer[:HISTORY] = jnp.zeros((HISTORY, width), jnp.float32)

    @pl.when(pl.program_id(2) > 0)
    def _():
      buffer[:HISTORY] = buffer[TOKENS:]

    buffer[HISTORY:] = x_ref[...].astype(jnp.float32)
    reach = reach_ref[...]  # [TB, 1]
    y = bias_ref[...] + weight_ref[taps - 1 :] * buffer[HISTORY:]
    for d in range(1, taps):
      shifted = buffer[HISTORY - d : HISTORY - d + TOKENS]
      tap = weight_ref[taps - 1 - d : taps - d]
      y += jnp.where(reach >= d, tap * shifted, 0.0)
    y_ref[...] = activate(y, activation).astype(y_ref.dtype)

  tokens = pl.BlockSpec((None, TOKENS, width), lambda b, d, t: (b, t, d))
  return pl.pallas_call(
    block,
    grid=(B, D // width, T // TOKENS),
    name="short_conv_forward",
    in_specs=[
      tokens,
      pl.BlockSpec((taps, width), lambda b, d, t: (0, d)),
      pl.BlockSpec((1, width), lambda b, d, t: (0, d)),
      pl.BlockSpec((None, TOKENS, 1), lambda b, d, t: (b, t, 0)),
    ],
    out_specs=tokens,
    out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
    scratch_shapes=[pltpu.VMEM((HISTORY + TOKENS, width), jnp.float32)],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "parallel", "arbitrary")
    ),
    interpret=interpret,
  )(x, weight.astype(jnp.float32), bias.astype(jnp.float32)[None], reach[..., None])
