"""What the Mosaic GPU kernels for Hopper share: tiles, products, register layouts."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxseq_kernels.matrix_states import CHUNK

__all__ = [
  "COLS",
  "ROWS",
  "TILE",
  "Place",
  "Tokens",
  "along_cols",
  "along_rows",
  "halves",
  "iota",
  "least",
  "leave",
  "load",
  "place",
  "plain_product",
  "product",
  "rounded",
  "stacked",
  "stage",
  "sum_of_cols",
  "sum_of_rows",
  "tiles",
  "with_end",
  "zeros",
]

TILE = plgpu.Layout.WGMMA  # A matrix in the registers of a warpgroup.
ROWS = TILE.reduce(1)  # A number for each of its rows.
COLS = TILE.reduce(0)  # A number for each of its columns.


class Place(NamedTuple):
  """Where a program of the grid [B P, H, blocks] is.

  Attributes:
    row: Of B P.
    batch: Of B.
    head: Of H.
    block: Of the blocks of columns.
    first: The first chunk of its piece.
    count: Of chunks.
  """

  row: jax.Array
  batch: jax.Array
  head: jax.Array
  block: jax.Array
  first: jax.Array
  count: jax.Array


def place(chunks: int, pieces: int) -> Place:
  """For sequences of that many chunks, each cut into pieces."""
  row, head = jax.lax.axis_index("batch"), jax.lax.axis_index("head")
  block = jax.lax.axis_index("block")
  batch, piece = jax.lax.div(row, pieces), jax.lax.rem(row, pieces)
  size = pl.cdiv(chunks, pieces)
  first = piece * size
  return Place(row, batch, head, block, first, jnp.clip(chunks - first, 0, size))


def tiles(shape, dtype) -> plgpu.SMEM:
  """Shared memory for matrices, in the order that copies and matrix products want.

  Args:
    shape: Of the matrices, perhaps several.
    dtype: Of 16 or 32 bits.
  """
  tile = (8, 128 // jnp.dtype(dtype).itemsize)
  transforms = (plgpu.TilingTransform(tile), plgpu.SwizzleTransform(128))
  return plgpu.SMEM(shape, dtype, transforms=transforms)


class Tokens:
  """How chunks of arrays [B, T, H, D] come to shared memory and leave it.

  Copies of tiles, 8 tokens by 64 columns, need whole ones. Else they go by rows, for
  which a matrix is in parts of 64 columns: tiles of one column are rows one after the
  other, so that a buffer has a second name, under which that is what it is.

  Attributes:
    whole: Whether the arrays have whole tiles.
    width: Columns of the parts of all that a deep buffer has, at most 128.
    parts: Where they are, slices.
    groups: Of parts that have 128 columns together, or less, but all the same.
  """

  def __init__(self, *arrays, depth: int, interpret=False):
    """For arrays, or None, and deep buffers of so many columns."""
    sizes = [(x.shape[1], x.shape[-1]) for x in arrays if x is not None]
    # Copies leave out an axis of a single tile.
    self.whole = all(T % 8 == 0 and T > 8 and D % 64 == 0 for T, D in sizes)
    together = depth if depth <= 128 else math.gcd(depth, 128)
    self.width = together if self.whole else 64
    self.parts = [pl.ds(start, self.width) for start in range(0, depth, self.width)]
    count = together // self.width
    self.groups = [
      range(first, first + count) for first in range(0, len(self.parts), count)
    ]
    self._named_once = self.whole or interpret  # Which copies what it is told to.

  def names_of(self, *shape: int) -> list:
    """What a buffer, of 64 columns or of `width`, is declared as under each name."""
    swizzle = plgpu.SwizzleTransform(128)
    as_rows = plgpu.SMEM(shape, jnp.bfloat16, transforms=[swizzle])
    return [tiles(shape, jnp.bfloat16), *([] if self._named_once else [as_rows])]

  def buffer(self, *shape: int):
    """Shared memory under its names. That these share it to the byte is not promised by
    JAX, whose unions are for one use after the other: the tests on a GPU would tell.
    """
    names = self.names_of(*shape)
    return names[0] if self._named_once else plgpu.RefUnion(*names)

  def deep(self, stages: int):
    """For all columns of chunks, [stages parts, CHUNK, width]."""
    return self.buffer(stages * len(self.parts), CHUNK, self.width)

  def names(self, *buffers):
    """Of buffers in a kernel, each as products read it, then each as it is copied."""
    if self._named_once:
      return buffers, buffers
    return zip(*((None, None) if x is None else x for x in buffers))

  def fetch(self, ref, copied, stage, barrier):
    """All columns of a chunk to a deep buffer; beyond the array's end they are 0."""
    zero = jax.lax.axis_index("head") * 0  # Unknown to what would forbid that.
    for part, to in zip(self.parts, self.at(copied, stage)):
      here = ref.at[:, pl.ds(zero + part.start, part.size)]
      plgpu.copy_gmem_to_smem(here, to, barrier)

  def at(self, buffer, stage) -> list:
    """The parts of a deep buffer."""
    count = len(self.parts)
    return [buffer.at[stage * count + part] for part in range(count)]

  def load(self, ref=None):
    """A state [64, depth] from global memory to registers, in parts; else zeros."""
    if ref is None:
      return (zeros((64, self.width)),) * len(self.parts)
    load = functools.partial(plgpu.load, layout=TILE, optimized=False)
    return tuple(load(ref.at[:, part]) for part in self.parts)

  def store(self, state, ref):
    """The parts of a state to global memory."""
    for x, part in zip(state, self.parts):
      ref.at[:, part][...] = x


def with_end(x):
  """x, of which copies from beyond its columns bring zeros.

  Copies leave out an axis of a single tile, as is that of 64 columns, with the index on
  it. They would bring that tile again, so it gets another of zeros.
  """
  columns = 64 if x.shape[-1] == 64 else 0
  return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, columns)])


def stage(step, stages: int):
  """Where the chunk of a step is."""
  # Unknown to the compiler: were it 0, all addresses would be kept in registers.
  return jax.lax.optimization_barrier(jax.lax.rem(step, stages))


def leave(barrier):
  """At a program's end: no warpgroup may go while others have products under way."""
  plgpu.barrier_arrive(barrier)
  plgpu.barrier_wait(barrier)


def load(ref):
  """A matrix in shared memory, to registers, in float32."""
  return plgpu.load(ref, layout=TILE).astype(jnp.float32)


def product(a, b, start=None):
  """start + a b: `a` in shared memory or registers, `b` in shared memory.

  Lists are summed over: start + a_0 b_0 + a_1 b_1 + ...

  The result passes a barrier: nothing else tells the compiler that its registers are
  not to be read before the product has been waited for.
  """
  a, b = (x if isinstance(x, list) else [x] for x in (a, b))

  def multiply(acc):
    for x, y in zip(a, b, strict=True):
      plgpu.wgmma(acc, x, y)

  if start is None:

    def run(acc):
      multiply(acc)
      return acc[...]

    shape = (a[0].shape[0], b[0].shape[1])
    out = pl.run_scoped(run, plgpu.ACC(shape, jnp.float32))
  else:
    out = pl.run_state(multiply)(plgpu.ACC.init(start))
  return jax.lax.optimization_barrier(out)


def plain_product(a, b, start=None):
  """`product` for the interpreter, which has no matrix unit that reads registers."""
  a, b = (x if isinstance(x, list) else [x] for x in (a, b))
  out = 0 if start is None else start
  for x, y in zip(a, b, strict=True):
    out += jnp.dot(x[...], y[...], preferred_element_type=jnp.float32)
  return out


def along_rows(x, columns: int):
  """A number for each row, `ROWS`, over all columns."""
  x = plgpu.layout_cast(x, ROWS)
  x = jax.lax.broadcast_in_dim(x, (x.shape[0], columns), (0,))
  return plgpu.layout_cast(x, TILE)


def along_cols(x, rows: int):
  """A number for each column, `COLS`, over all rows."""
  x = plgpu.layout_cast(x, COLS)
  x = jax.lax.broadcast_in_dim(x, (rows, x.shape[0]), (1,))
  return plgpu.layout_cast(x, TILE)


def sum_of_rows(x):
  """The sum of each row, `ROWS`."""
  return plgpu.layout_cast(jnp.sum(plgpu.layout_cast(x, TILE), axis=1), ROWS)


def sum_of_cols(x):
  """The sum of each column, `COLS`."""
  return plgpu.layout_cast(jnp.sum(plgpu.layout_cast(x, TILE), axis=0), COLS)


def least(x):
  """The least number of a matrix."""
  return jnp.min(plgpu.layout_cast(jnp.min(x, axis=1), ROWS), axis=0)


def zeros(shape, layout=TILE):
  """Of float32, in registers."""
  return plgpu.layout_cast(jnp.zeros(shape, jnp.float32), layout)


def rounded(x):
  """To bfloat16 and back; by whole numbers, as its unit for single numbers is slow."""
  bits = jax.lax.bitcast_convert_type(x, jnp.int32)
  return jax.lax.bitcast_convert_type((bits + 0x8000) & -0x10000, jnp.float32)


def halves(x, dtype):
  """Two of 16 bits that add up to x, all but: twice the bits in a product."""
  high = rounded(x) if dtype == jnp.bfloat16 else x.astype(dtype).astype(jnp.float32)
  return high.astype(dtype), (x - high).astype(dtype)


def stacked(ref):
  """The places of two halves of a matrix, the second below the first."""
  rows = ref.shape[0] // 2
  return [ref.at[pl.ds(part * rows, rows)] for part in range(2)]


def iota(shape, axis: int):
  """The index along an axis of a matrix."""
  return plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=TILE)
