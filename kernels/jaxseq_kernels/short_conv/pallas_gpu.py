"""GPU forward for Hopper, by Mosaic GPU. Grid [B T / TB, D / DB].

A program copies a tile of inputs, with the rows before it, to shared memory by the
tensor memory accelerator; its threads, two channels each, then walk over time with the
last W - 1 inputs in registers; the outputs leave the same way. Each input is read once,
but for the rows between two tiles, and each output written once.
"""

import jax
import jax.numpy as jnp

__all__ = ["CHANNELS", "TOKENS", "forward"]

CHANNELS = 256  # Of a program, two for each of its 128 threads.
TOKENS = 64  # Of a program: with outputs 68 KB of bfloat16, three programs a processor.
HISTORY = 8  # Rows before the tile; at least W - 1.


def forward(x, weight, bias, reach, *, activation, interpret=False):
  """See `reference.forward`; D a multiple of `CHANNELS`, T of `TOKENS`, W - 1 <= 8."""
  from jax.experimental import pallas as pl
  from jax.experimental.pallas import mosaic_gpu as plgpu

  B, T, D = x.shape
  taps = weight.shape[0]

  def tile(x_ref, weight_ref, bias_ref, reach_ref, y_ref, x_tile, y_tile, arrived):
    first = jax.lax.axis_index("time") * TOKENS
    channels = pl.ds(jax.lax.axis_index("channel") * CHANNELS, CHANNELS)
    # The very first tile has no rows before it. Those of other rows' first tiles are of
    # another sequence; `reach` hides them.
    before = jnp.where(first == 0, 0, HISTORY)
    rows = pl.ds(first - before, HISTORY + TOKENS)
    plgpu.copy_gmem_to_smem(x_ref.at[rows, channels], x_tile, arrived)
    weight = [weight_ref[w, channels] for w in range(taps)]
    bias = bias_ref[channels]
    plgpu.barrier_wait(arrived)
    read = lambda row: x_tile[row].astype(jnp.float32)

    def token(t, earlier):
      reach = reach_ref[first + t]
      x = read(before + t)
      y = bias + weight[taps - 1] * x
      for d, past in enumerate(earlier, start=1):
        seen = jnp.where(reach >= d, 1.0, 0.0)
        y += seen * weight[taps - 1 - d] * past
      if activation == "silu":
        y = y / (1.0 + jnp.exp(-y))
      y_tile[t] = y.astype(x_tile.dtype)
      return (x, *earlier)[: taps - 1]

    start = tuple(read(jnp.maximum(before - d, 0)) for d in range(1, taps))
    jax.lax.fori_loop(0, TOKENS, token, start)
    plgpu.commit_smem()
    plgpu.copy_smem_to_gmem(y_tile, y_ref.at[pl.ds(first, TOKENS), channels])
    plgpu.wait_smem_to_gmem(0)

  run = plgpu.kernel(
    tile,
    out_type=jax.ShapeDtypeStruct((B * T, D), x.dtype),
    grid=(B * T // TOKENS, D // CHANNELS),
    grid_names=("time", "channel"),
    scratch_types=[
      plgpu.SMEM((HISTORY + TOKENS, CHANNELS), x.dtype),
      plgpu.SMEM((TOKENS, CHANNELS), x.dtype),
      plgpu.Barrier(),
    ],
    kernel_name="short_conv_forward",
    interpret=interpret or None,
  )
  weight, bias = weight.astype(jnp.float32), bias.astype(jnp.float32)
  return run(x.reshape(B * T, D), weight, bias, reach.reshape(B * T)).reshape(B, T, D)
