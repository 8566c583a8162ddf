"""GPU step for Hopper, by Mosaic GPU. Grid [B, H, V / 32].

    S' = diag(d) S + k v^T + a (S^T b)^T            with a and b, or without
    S' = diag(d) S + beta k (v - S^T (d * k))^T     with beta
    o  = scale S'^T q

A program, one warpgroup, takes 32 columns of a head's state to registers and from there
back to memory: S is read once and S' written once, in whole lines. What S^T b and
S'^T q have from its four warps they add up in shared memory. The programs are small, so
that many are on a processor and some always wait for memory while others compute.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.mosaic.gpu import fragmented_array
from jax.experimental.pallas import mosaic_gpu as plgpu

__all__ = ["COLUMNS", "step"]

COLUMNS = 32  # Of a program: for K = 128 a thread has 32 numbers of the state.

# Of each 16 rows a warp has four, and a thread four neighbouring columns of one.
TILE = plgpu.Layout.TILED(
  fragmented_array.Tiling(((16, COLUMNS), (4, COLUMNS), (4,))),
  warp_dims=(-5,),
  lane_dims=(-3, -2),
  vector_dim=-1,
)
ROWS, COLS = TILE.reduce(1), TILE.reduce(0)


def step(q, k, v, state, log_decay, beta, a, b, *, scale, interpret=False):
  """See `reference.forward`; the state float32, K and V multiples of 32."""
  B, _, H, K = q.shape
  V = v.shape[-1]
  given = dict(q=q, k=k, v=v, state=state, log_decay=log_decay, beta=beta, a=a, b=b)
  given = {name: x for name, x in given.items() if x is not None}

  def program(*refs):
    *refs, o_ref, last_ref = refs
    refs = dict(zip(given, refs, strict=True))
    batch, head = jax.lax.axis_index("batch"), jax.lax.axis_index("head")
    columns = pl.ds(jax.lax.axis_index("block") * COLUMNS, COLUMNS)

    def load(ref, layout):
      return plgpu.load(ref, layout=layout, optimized=False).astype(jnp.float32)

    def rows(name):
      """A number for each row, over all columns."""
      x = load(refs[name].at[batch, 0, head], ROWS)
      return plgpu.layout_cast(jax.lax.broadcast_in_dim(x, (K, COLUMNS), (0,)), TILE)

    def over_rows(x):
      """A number for each column, over all rows."""
      return plgpu.layout_cast(jax.lax.broadcast_in_dim(x, (K, COLUMNS), (1,)), TILE)

    def sum_of_cols(x):
      return plgpu.layout_cast(jnp.sum(x, axis=0), COLS)

    # All loads come first: none would pass the barriers of the sums.
    S = load(refs["state"].at[batch, head, :, columns], TILE)
    u = load(refs["v"].at[batch, 0, head, columns], COLS)
    by_row = {name: rows(name) for name in ("q", "k", "a", "b") if name in refs}
    if log_decay is not None:
      by_channel = log_decay.ndim == 4
      g = rows("log_decay") if by_channel else refs["log_decay"][batch, 0, head]
    if beta is not None:
      strength = refs["beta"][batch, 0, head]

    k, moved = by_row["k"], None
    if a is not None:
      moved = by_row["a"] * over_rows(sum_of_cols(by_row["b"] * S))
    if log_decay is not None:
      S *= jnp.exp(g)
    if beta is not None:
      u = strength * (u - sum_of_cols(k * S))
    S += k * over_rows(u)
    if moved is not None:
      S += moved
    last_ref.at[batch, head, :, columns][...] = S
    o = scale * sum_of_cols(by_row["q"] * S)
    o_ref.at[batch, 0, head, columns][...] = o.astype(o_ref.dtype)

  run = plgpu.kernel(
    program,
    out_type=(
      jax.ShapeDtypeStruct(v.shape, v.dtype),
      jax.ShapeDtypeStruct(state.shape, state.dtype),
    ),
    grid=(B, H, V // COLUMNS),
    grid_names=("batch", "head", "block"),
    compiler_params=plgpu.CompilerParams(approx_math=True),
    kernel_name="matrix_step",
    interpret=interpret or None,
  )
  return run(*given.values())
