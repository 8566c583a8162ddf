"""TPU kernels. Grid [B, D / DB, T / TB], time innermost.

Forward, a block of inputs is put behind the last rows of the block before it, which
stay in VMEM; the taps are then slices of that buffer. Each input is read once and each
output written once.

Backward goes from the last block to the first. With z before the activation, dz of
the first rows of the block after it stay in VMEM, and of the block before it a few
inputs are read again:

    dz_t = dy_t act'(z_t)                              db = sum_t dz_t
    dx_t = sum_d w_{W-1-d} dz_{t+d}                    where t + d sees t
    dw_{W-1-d} = sum_t x_t dz_{t+d}                    likewise

The sums over time stay in VMEM as well, those over rows are XLA's. A token's reach
takes a third of the arithmetic, and is left out where rows are not packed.
"""

import jax
import jax.numpy as jnp

from jaxseq_kernels.short_conv.reference import activate, sigmoid, slope

__all__ = ["LANES", "TOKENS", "backward", "forward"]

LANES = 128  # Channels of a block; D is a multiple.
TOKENS = 256  # T is a multiple; a block is up to 16 times as long, 1 MB at most.
STRIP = 64  # Tokens written down at a time, which the compiler schedules better.
HISTORY = 8  # Rows kept from the block before: a whole tile of float32.
BEFORE = 16  # Rows read again: a whole tile of bfloat16.
SUMS = 16  # Rows for the sums over time: of each tap, of the bias, and empty ones.


def forward(x, weight, bias, reach, *, activation, interpret=False):
  """See `reference.forward`; D a multiple of `LANES`, T of `TOKENS`."""
  from jax.experimental import pallas as pl
  from jax.experimental.pallas import tpu as pltpu

  B, T, D = x.shape
  taps, size = weight.shape[0], _block_length(x)

  def block(x_ref, weight_ref, bias_ref, *refs):
    *reach_ref, y_ref, buffer = refs

    @pl.when(pl.program_id(2) == 0)
    def _():  # The first tokens of a row.
      buffer[:HISTORY] = jnp.zeros((HISTORY, LANES), jnp.float32)

    @pl.when(pl.program_id(2) > 0)
    def _():
      buffer[:HISTORY] = buffer[size:]

    buffer[HISTORY:] = x_ref[...].astype(jnp.float32)
    reach = [_by_token(r[...]) for r in reach_ref]
    for t in range(0, size, STRIP):
      y = activate(_linear(buffer, weight_ref, bias_ref, reach, t), activation)
      y_ref[t : t + STRIP] = _clear_padding(y, reach, t).astype(y_ref.dtype)

  tokens = pl.BlockSpec((None, size, LANES), lambda b, d, t: (b, t, d))
  in_specs = [
    tokens,
    pl.BlockSpec((taps, LANES), lambda b, d, t: (0, d)),
    pl.BlockSpec((1, LANES), lambda b, d, t: (0, d)),
    pl.BlockSpec((None, 1, size), lambda b, d, t: (b, 0, t)),
  ]
  args = [x, weight.astype(jnp.float32), bias.astype(jnp.float32)[None]]
  args += [] if reach is None else [reach[:, None]]
  return pl.pallas_call(
    block,
    grid=(B, D // LANES, T // size),
    name="short_conv_forward",
    in_specs=in_specs[: len(args)],
    out_specs=tokens,
    out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
    scratch_shapes=[pltpu.VMEM((HISTORY + size, LANES), jnp.float32)],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "parallel", "arbitrary")
    ),
    interpret=interpret,
  )(*args)


def backward(x, weight, bias, reach, dy, *, activation, interpret=False):
  """dx in the dtype of x, and the terms of dw, by tap, and db [B, SUMS, D], float32."""
  from jax.experimental import pallas as pl
  from jax.experimental.pallas import tpu as pltpu

  B, T, D = x.shape
  taps, size = weight.shape[0], _block_length(x)
  count = T // size

  def block(x_ref, before_ref, dy_ref, weight_ref, bias_ref, *refs):
    *reach_ref, dx_ref, sums_ref, inputs, dz_later, reach_later = refs

    @pl.when(pl.program_id(2) == 0)
    def _():  # The last tokens of a row.
      dz_later[size:] = jnp.zeros((HISTORY, LANES), jnp.float32)
      reach_later[size:] = jnp.zeros((HISTORY, LANES), jnp.int32)
      sums_ref[...] = jnp.zeros((SUMS, LANES), jnp.float32)

    @pl.when(pl.program_id(2) > 0)
    def _():
      dz_later[size:] = dz_later[:HISTORY]
      reach_later[size:] = reach_later[:HISTORY]

    before = before_ref[BEFORE - HISTORY :].astype(jnp.float32)
    first = pl.program_id(2) == count - 1
    inputs[:HISTORY] = jnp.where(first, 0.0, before)
    reach = [_by_token(r[...]) for r in reach_ref]
    inputs[HISTORY:] = _clear_padding(x_ref[...].astype(jnp.float32), reach)
    if reach:
      reach_later[:size] = reach[0]
    strips = range(0, size, STRIP)

    for t in strips:
      dz = dy_ref[t : t + STRIP].astype(jnp.float32)
      if activation == "silu":
        z = _linear(inputs, weight_ref, bias_ref, reach, t)
        dz *= slope(z, sigmoid(z))
      dz_later[t : t + STRIP] = _clear_padding(dz, reach, t)

    def add(row, terms):
      sums_ref[row : row + 1] += jnp.sum(terms, axis=0, keepdims=True)

    for t in strips:
      x, dx = inputs[HISTORY + t : HISTORY + t + STRIP], 0.0
      add(taps, dz_later[t : t + STRIP])
      for d in range(taps):
        rows, tap = slice(t + d, t + d + STRIP), taps - 1 - d
        dz = dz_later[rows]
        if reach and d:
          dz = jnp.where(reach_later[rows] >= d, dz, 0.0)
        dx += weight_ref[tap : tap + 1] * dz
        add(tap, x * dz)
      dx_ref[t : t + STRIP] = dx.astype(dx_ref.dtype)

  def before(b, d, t):
    return b, jnp.maximum((count - 1 - t) * (size // BEFORE) - 1, 0), d

  tokens = pl.BlockSpec((None, size, LANES), lambda b, d, t: (b, count - 1 - t, d))
  in_specs = [
    tokens,
    pl.BlockSpec((None, BEFORE, LANES), before),
    tokens,
    pl.BlockSpec((taps, LANES), lambda b, d, t: (0, d)),
    pl.BlockSpec((1, LANES), lambda b, d, t: (0, d)),
    pl.BlockSpec((None, 1, size), lambda b, d, t: (b, 0, count - 1 - t)),
  ]
  args = [x, x, dy, weight.astype(jnp.float32), bias.astype(jnp.float32)[None]]
  args += [] if reach is None else [reach[:, None]]
  return pl.pallas_call(
    block,
    grid=(B, D // LANES, count),
    name="short_conv_backward",
    in_specs=in_specs[: len(args)],
    out_specs=[tokens, pl.BlockSpec((None, SUMS, LANES), lambda b, d, t: (b, 0, d))],
    out_shape=[
      jax.ShapeDtypeStruct(x.shape, x.dtype),
      jax.ShapeDtypeStruct((B, SUMS, D), jnp.float32),
    ],
    scratch_shapes=[
      pltpu.VMEM((HISTORY + size, LANES), jnp.float32),
      pltpu.VMEM((size + HISTORY, LANES), jnp.float32),
      pltpu.VMEM((size + HISTORY, LANES), jnp.int32),
    ],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "parallel", "arbitrary")
    ),
    interpret=interpret,
  )(*args)


def _linear(inputs, weight_ref, bias_ref, reach, t):
  """z of a strip that begins t tokens behind the history among the inputs."""
  z, taps = bias_ref[...], weight_ref.shape[0]
  for d in range(taps):
    first = HISTORY + t - d
    product = weight_ref[taps - 1 - d : taps - d] * inputs[first : first + STRIP]
    if reach and d:
      product = jnp.where(reach[0][t : t + STRIP] >= d, product, 0.0)
    z += product
  return z


def _clear_padding(rows, reach, t=0):
  """Zeros at padding, for rows that begin t tokens behind those of the reach."""
  if not reach:
    return rows
  return jnp.where(reach[0][t : t + rows.shape[0]] >= 0, rows, 0.0)


def _block_length(x):
  """The longest that divides T; the longer, the less a program's start counts."""
  T, most = x.shape[1], 2**20 // (LANES * x.dtype.itemsize)
  lengths = (16 * TOKENS, 8 * TOKENS, 4 * TOKENS, 2 * TOKENS, TOKENS)
  return next(size for size in lengths if size <= most and T % size == 0)


def _by_token(reach):
  """[1, T] to [T, LANES]."""
  return jnp.broadcast_to(reach, (LANES, reach.shape[1])).T
