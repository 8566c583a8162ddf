"""GPU kernels for Hopper, by Mosaic GPU, for what a chunk's tokens make of each other.

The rules of KDA (`channel_delta_rule`) and RWKV-7 (`dplr`), with g the binary
logarithms of decays by channel, S [K, V] and s the scale,

    S_t = exp2(g_t) S_{t-1} + a_t z_t^T + k_t v_t^T        z_t = S_{t-1}^T b_t
    S_t = exp2(g_t) S_{t-1} + a_t z_t^T                    z_t = v_t - S_{t-1}^T b_t

(in KDA a = beta k and b = exp2(g) k) and o_t = s S_t^T q_t, are for C tokens of a chunk

    Z  = N v + W S
    o  = Q S + P Z + O v
    S' = D S + A^T Z + R^T v

With G_i the sum of g from the chunk's start to i and with it, G-_i without, U_j from
after j to the end, E_ij from after j to i and E-_ij to before i,

    Q = s q exp2(G)      A = a exp2(U)      R = k exp2(U)      D = exp2(G_C)
    P_ij = s sum_c q_ic a_jc exp2(E_ij)     O_ij = s sum_c q_ic k_jc exp2(E_ij)   j <= i
    M_ij =   sum_c b_ic a_jc exp2(E-_ij)    L_ij =   sum_c b_ic k_jc exp2(E-_ij)  j < i
    dplr:  X = (I - M)^-1    W = X (b exp2(G-))     N = X L
    KDA:   X = (I + M)^-1    W = -X (k exp2(G))     N = X        no O, R

where in KDA M has k_i exp2(E_ij) for b_i exp2(E-_ij). All pairs are of one document,
and what is before a document's start is not read after it. How pairs are summed is in
`channel_decays`; b_i exp2(E-_ij) is there (b_i exp2(-g_i)) exp2(E_ij).

`prepare`: grid [B N, H], a program, one warpgroup, for each chunk of a head. It takes
64 channels at a time; then come the inverse and what is multiplied by it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxseq_kernels import hopper, triangular
from jaxseq_kernels.channel_decays import (
  BLOCK,
  HALVES,
  LEAST,
  UNIT,
  Documents,
  Maths,
  earlier,
  inside,
  later,
  load,
  total_of,
  wide,
)
from jaxseq_kernels.matrix_states import CHUNK

__all__ = ["Chunks", "prepare"]

bf16, f16, f32 = jnp.bfloat16, jnp.float16, jnp.float32


class Chunks(NamedTuple):
  """Each chunk as a map of the state before it; in bfloat16 but for D.

  Attributes:
    Q: [B, T, H, K].
    W: [B, T, H, K].
    A: [B, T, H, K].
    D: [B, H, N, K'] float32, K' being K padded to a multiple of 64.
    P: [B, H, N, CHUNK, CHUNK].
    N: [B, H, N, CHUNK, CHUNK].
    R: [B, T, H, K], of `dplr`, as the others.
    O: [B, H, N, CHUNK, CHUNK].
    X: [B, H, N, CHUNK, CHUNK], which in KDA is N.
  """

  Q: jax.Array
  W: jax.Array
  A: jax.Array
  D: jax.Array
  P: jax.Array
  N: jax.Array
  R: jax.Array | None = None
  O: jax.Array | None = None  # noqa: E741
  X: jax.Array | None = None


def prepare(
  q, k, g, docs, b=None, a=None, beta=None, *, scale, interpret=False
) -> Chunks:
  """What the scans need of each chunk.

  Args:
    q: [B, T, H, K] bfloat16; T a multiple of 8, K of 32 and at least 64.
    k: [B, T, H, K].
    g: [B, T, H, K] float32, natural logarithms of decays.
    docs: [B, N, 2, CHUNK] float32, how many documents have started in the chunk up to
      and with a token; twice, as no buffer can be read in two layouts of registers.
      N = ceil(T / CHUNK).
    b: [B, T, H, K], of `dplr`.
    a: [B, T, H, K], of `dplr`.
    beta: [B, H, N, CHUNK] float32, of KDA.
    scale: Of the outputs.
    interpret: As in `pallas_call`.
  """
  B, T, H, K = q.shape
  N, blocks, general = docs.shape[1], -(-K // BLOCK), beta is None
  arrays = dict(q=q, k=k, b=b, a=a, g=g, docs=docs, beta=_twice(beta))
  arrays = {name: x for name, x in arrays.items() if x is not None}
  vectors = jax.ShapeDtypeStruct(q.shape, bf16)
  pairs = jax.ShapeDtypeStruct((B, H, N, CHUNK, CHUNK), bf16)
  outs = dict(Q=vectors, W=vectors, A=vectors, P=pairs, N=pairs)
  outs["D"] = jax.ShapeDtypeStruct((B, H, N, blocks * BLOCK), f32)
  if general:
    outs.update(R=vectors, O=pairs, X=pairs)
  names = [*arrays, *outs]
  product = hopper.plain_product if interpret else hopper.product

  def program(*refs, given, gates_s, work_s, reads_s, zero_s, arrived):
    ref = dict(zip(names, refs, strict=True))
    (q_s, k_s, g_s, *others), (M_s, X_s) = given
    b_s, a_s = others or (k_s, k_s)
    maths = Maths(product, zero_s)
    batch, head = jax.lax.axis_index("batch"), jax.lax.axis_index("head")
    at, n = jax.lax.div(batch, N), jax.lax.rem(batch, N)
    rows = pl.ds(n * CHUNK, CHUNK)
    documents = Documents(ref["docs"].at[at, n], False)
    # What is beyond the array's end arrives as 0, and is not written.
    part = lambda c: pl.ds(head * 0 + c * BLOCK, BLOCK)
    vectors_of = lambda name, c: ref[name].at[at, rows, head, part(c)]
    pairs_of = lambda name: ref[name].at[at, head, n]

    def send(x, buffer, to):
      buffer[...] = x.astype(bf16)
      plgpu.commit_smem()
      plgpu.copy_smem_to_gmem(buffer, to)

    def read(c):
      """Q, and the reads of the state that are still to be multiplied by X."""
      share = jnp.exp2(maths.outward(gates_s, False))
      share *= hopper.along_rows(documents.read(), BLOCK)
      reads = wide(b_s) * share
      reads_s.at[c][...] = (reads * _undo(gates_s) if general else reads).astype(f16)
      send(wide(q_s) * share * scale, q_s, vectors_of("Q", c))

    def write(c):
      """A and R."""
      share = jnp.exp2(maths.outward(gates_s, True))
      share *= hopper.along_rows(documents.write(), BLOCK)
      if general:
        send(wide(k_s) * share, k_s, vectors_of("R", c))
      else:
        share *= hopper.along_rows(load(beta_of(0), hopper.ROWS), BLOCK)
      send(wide(a_s) * share, a_s, vectors_of("A", c))

    beta_of = lambda copy: ref["beta"].at[at, head, n, copy]
    sums, self_a, self_k = (0.0,) * 4, 0.0, 0.0
    for c in range(blocks):
      plgpu.wait_smem_to_gmem(0, wait_read_only=True)
      for name, buffer in dict(q=q_s, k=k_s, g=g_s, b=b_s, a=a_s).items():
        if name in arrays:
          plgpu.copy_gmem_to_smem(vectors_of(name, c), buffer, arrived)
      plgpu.barrier_wait(arrived)
      gates = maths.gates(g_s)
      gates_s[...] = gates
      plgpu.commit_smem()
      ref["D"].at[at, head, n, part(c)][...] = jnp.exp2(
        total_of(gates) + documents.none()
      )
      self_a += hopper.sum_of_rows(wide(q_s) * wide(a_s))
      if general:
        self_k += hopper.sum_of_rows(wide(q_s) * wide(k_s))
      for half in (*HALVES, LEAST):
        buffers = (q_s, k_s, b_s, a_s, gates_s, work_s)
        sums = _pairs(maths, half, sums, *buffers, general=general)
      read(c)
      write(c)

    P, M, O, L = (jnp.where(documents.same(), x, 0.0) for x in sums)
    P += maths.diagonal(hopper.along_rows(self_a, CHUNK))
    if general:
      O += maths.diagonal(hopper.along_rows(self_k, CHUNK))
    else:
      P *= hopper.along_cols(load(beta_of(1), hopper.COLS), CHUNK)
      M *= hopper.along_rows(-load(beta_of(0), hopper.ROWS), CHUNK)
    send(P * scale, work_s, pairs_of("P"))
    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
    if general:
      gates_s[...] = L.astype(f16)
      send(O * scale, work_s, pairs_of("O"))
    if interpret:
      X_s[...] = triangular.plain_inverse(M.T).astype(f16)
    else:
      triangular.inverse(M, M_s.at[:, pl.ds(0, CHUNK)], X_s)
    i = maths.rows
    X = load(X_s) + inside((i, i + 1), jnp.float16(1))
    made = [(X, pairs_of("X" if general else "N"))]
    if general:
      made.append((product(X, gates_s), pairs_of("N")))
    for c in range(blocks):
      W = product(X, reads_s.at[c])
      made.append((W if general else -W, vectors_of("W", c)))
    for slot, (x, to) in enumerate(made):
      plgpu.wait_smem_to_gmem(1, wait_read_only=True)
      send(x, (q_s, k_s)[slot % 2], to)
    plgpu.wait_smem_to_gmem(0)

  tile = hopper.tiles((CHUNK, BLOCK), bf16, K)
  plain = hopper.tiles((CHUNK, CHUNK), bf16)
  run = plgpu.kernel(
    program,
    out_type=list(outs.values()),
    grid=(B * N, H),
    grid_names=("batch", "head"),
    scratch_types=dict(
      given=plgpu.RefUnion(
        [tile, tile, hopper.tiles((CHUNK, BLOCK), f32, K), *[tile] * (2 * general)],
        [
          plgpu.SMEM((CHUNK, triangular.ROW), f32),
          plgpu.SMEM((CHUNK, CHUNK), f16),
        ],
      ),
      gates_s=hopper.tiles((CHUNK, BLOCK), f16),
      work_s=plain,
      reads_s=hopper.tiles((blocks, CHUNK, BLOCK), f16),
      zero_s=plgpu.SMEM((CHUNK,), jnp.int32),
      arrived=plgpu.Barrier(num_arrivals=5 if general else 3),
    ),
    compiler_params=plgpu.CompilerParams(approx_math=True),
    kernel_name=f"{'dplr' if general else 'channel_delta_rule'}_prepare",
    interpret=interpret or None,
  )
  made = run(*arrays.values())
  return Chunks(**dict(zip(outs, made, strict=True)))


def _pairs(maths, half, sums, q_s, k_s, b_s, a_s, gates_s, work_s, *, general):
  """Of halves of blocks, added to: P, M transposed, O and L."""
  P, M, O, L = sums

  def staged(x):
    work_s[...] = x
    plgpu.commit_smem()
    return work_s.T

  X, Y = maths.shares(half, gates_s)
  queries = (wide(q_s) * X).astype(bf16)
  writes = (wide(a_s) * Y).astype(bf16)
  here = maths.product(queries, staged(writes))
  P += inside(earlier(maths.rows, half), here)
  reads = writes
  if general:
    reads = (wide(b_s) * X * _undo(gates_s)).astype(bf16)
  elif half == LEAST:
    reads = (wide(b_s) * X).astype(bf16)
  if general or half == LEAST:
    staged(reads)
  M += inside(later(maths.rows, half), maths.product(writes, work_s.T))
  if general:
    keys = staged((wide(k_s) * Y).astype(bf16))
    O += inside(earlier(maths.rows, half), maths.product(queries, keys))
    L += inside(earlier(maths.rows, half), maths.product(reads, keys))
  return P, M, O, L


def _undo(gates_s):
  """What undoes each token's own decay."""
  return jnp.exp2(wide(gates_s) * (-1 / UNIT))


def _twice(beta):
  """Once for each layout of registers that it is read in."""
  if beta is None:
    return None
  return jnp.broadcast_to(beta[:, :, :, None], (*beta.shape[:3], 2, CHUNK))
