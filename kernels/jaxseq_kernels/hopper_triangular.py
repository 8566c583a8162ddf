"""Inverses of unit triangular matrices of CHUNK rows, in kernels for Hopper GPUs."""

import jax
import jax.numpy as jnp
from jax.experimental.mosaic import gpu as mosaic
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import arith, memref, nvvm, vector
from jaxlib.mlir.dialects import math as mlir_math

from jaxseq_kernels import hopper
from jaxseq_kernels.matrix_states import CHUNK

__all__ = ["ROW", "inverse", "plain_inverse"]

ROW = CHUNK + 8  # Of a matrix in shared memory, padded: its columns in other banks.


def plain_inverse(N):
  """(I - N)^-1 of a strictly lower triangular matrix, by squarings of the rest."""
  i, j = (jax.lax.broadcasted_iota(jnp.int32, N.shape, axis) for axis in (0, 1))
  X = (i == j).astype(jnp.float32)
  size = 1
  dot = lambda a, b: jnp.dot(a, b, precision="highest")
  while size < CHUNK:
    between = (i // size % 2 == 1) & (i // size - 1 == j // size)
    X = X + dot(dot(X, jnp.where(between, N, 0.0)), X)
    size *= 2
  return jnp.where(i == j, 0.0, X)


@plgpu.inline_mgpu(
  arg_types=(hopper.TILE, plgpu.RefType(), plgpu.RefType()), return_type=None
)
def inverse(ctx, N, N_s, T_s):
  """T = (I - N)^-1 - I for strictly lower N, of which the transpose is given.

  T_s takes it in float32, or as halves in float16, the second below the first.

  The halves of the diagonal first, A and B of [[A, 0], [M, B]]: thread c of a warp
  finds column c of the inverse, from the top to the bottom. As soon as an entry is
  known, its share goes into all the entries below. They are in registers; the factors
  come from shared memory, the same for all threads. Then B^-1 M A^-1, 8 rows a warp.
  All in float32, in the place of N.
  """
  del ctx
  N.store_untiled(N_s, optimized=False)
  utils, half = mosaic.utils, CHUNK // 2
  f32, i32 = ir.F32Type.get(), ir.IntegerType.get_signless(32)
  index = ir.IndexType.get()
  at = lambda n: utils.c(n, index)
  add, multiply = arith.addi, arith.muli
  zero = utils.c(0.0, f32)
  thread = arith.remui(utils.thread_idx(), utils.c(128, i32))
  lane = arith.remui(thread, utils.c(half, i32))
  warp = arith.index_cast(index, arith.divui(thread, utils.c(half, i32)))
  column = arith.index_cast(index, lane)

  def keep(x, row, column):
    if T_s.type.element_type == f32:
      memref.store(x, T_s, [row, column])
      return
    high = arith.truncf(T_s.type.element_type, x)
    low = arith.subf(x, arith.extf(f32, high))
    memref.store(high, T_s, [row, column])
    low = arith.truncf(T_s.type.element_type, low)
    memref.store(low, T_s, [add(row, at(CHUNK)), column])

  def factors(row, column, count):
    for start in range(0, count, 4):
      place = [row, add(column, at(start))]
      four = vector.load(ir.VectorType.get([4], f32), N_s, place)
      for n in range(4):
        yield vector.extract(four, dynamic_position=[], static_position=[n])

  utils.warpgroup_barrier()
  with utils.when(arith.cmpi(arith.CmpIPredicate.ult, thread, utils.c(CHUNK, i32))):
    first = multiply(warp, at(half))  # The half's first row and column.
    own = lambda j: arith.cmpi(arith.CmpIPredicate.eq, lane, utils.c(j, i32))
    x = [arith.select(own(j), utils.c(1.0, f32), zero) for j in range(half)]
    for j in range(half):
      row = add(first, at(j))
      keep(arith.select(own(j), zero, x[j]), row, add(first, column))
      begin = j // 4 * 4
      for i, factor in enumerate(factors(row, add(first, at(begin)), half - begin)):
        if begin + i > j:
          x[begin + i] = mlir_math.fma(factor, x[j], x[begin + i])
    nvvm.bar_warp_sync(utils.c(-1, i32))
    with utils.when(arith.cmpi(arith.CmpIPredicate.eq, warp, at(0))):
      for j in range(half):  # A^-1 where N has nothing.
        memref.store(x[j], N_s, [at(half + j), column])
    with utils.when(arith.cmpi(arith.CmpIPredicate.eq, warp, at(1))):
      for j in range(half):  # B^-1, transposed, in the place of B.
        memref.store(x[j], N_s, [add(column, at(half)), at(half + j)])
  utils.warpgroup_barrier()

  rows = CHUNK // 8
  top = multiply(warp, at(rows))
  bottom = add(top, at(half))

  def product(right):
    out = [zero] * rows
    for n in range(half):
      x = memref.load(N_s, [at(right + n), column])
      left = at(n) if right else at(half + n)
      for i, factor in enumerate(factors(left, bottom, rows)):
        out[i] = mlir_math.fma(factor, x, out[i])
    return out

  for i, x in enumerate(product(half)):  # M A^-1 in the place of A.
    memref.store(x, N_s, [add(top, at(i)), column])
  utils.warpgroup_barrier()
  for i, x in enumerate(product(0)):
    keep(x, add(bottom, at(i)), column)
    keep(zero, add(top, at(i)), add(column, at(half)))
  utils.warpgroup_barrier()
