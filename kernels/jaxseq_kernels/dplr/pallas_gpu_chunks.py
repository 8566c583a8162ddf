"""GPU kernels for Hopper, by Mosaic GPU, for what a chunk's tokens make of each other.

The rules of KDA (`channel_delta_rule`) and RWKV-7 (`dplr`), with g the binary
logarithms of decays by channel, S [K, V] and s the scale,

    S_t = exp2(g_t) S_{t-1} + a_t z_t^T + k_t v_t^T        z_t = S_{t-1}^T b_t
    S_t = exp2(g_t) S_{t-1} + a_t z_t^T                    z_t = v_t - S_{t-1}^T b_t

(in KDA a = beta k and b = exp2(g) k) and o_t = s S_t^T q_t, are for C tokens of a chunk

    Z  = N v + W S              in KDA Z = X (v + W S)
    o  = Q S + P Z + O v
    S' = D S + A^T Z + R^T v

With G_i the sum of g from the chunk's start to i and with it, G-_i without, U_j from
after j to the end, E_ij from after j to i and E-_ij to before i,

    Q = s q exp2(G)      A = a exp2(U)      R = k exp2(U)      D = exp2(G_C)
    P_ij = s sum_c q_ic a_jc exp2(E_ij)     O_ij = s sum_c q_ic k_jc exp2(E_ij)   j <= i
    M_ij =   sum_c b_ic a_jc exp2(E-_ij)    L_ij =   sum_c b_ic k_jc exp2(E-_ij)  j < i
    dplr:  X = (I - M)^-1    W = X (b exp2(G-))     N = X L
    KDA:   X = (I + M)^-1    W = -k exp2(G)         no N, O, R

where in KDA M has k_i exp2(E_ij) for b_i exp2(E-_ij). All pairs are of one document,
and what is before a document's start is not read after it. How pairs are summed is in
`hopper_decays`; b_i exp2(E-_ij) is there (b_i exp2(-g_i)) exp2(E_ij).

`prepare`: grid [B N, H], a program, one warpgroup, for each chunk of a head. It takes
64 channels at a time; then come the inverse and, in `dplr`, what it multiplies.

Backwards, with Y the gradient of S', e = s do and dZ from the scan in reverse, and in
`dplr` f = X^T dZ, in KDA f = -X^T dZ,

    dq_i = exp2(G_i) (e S^T)_i   + sum over j <= i of exp2(E_ij) (e_i . z_j) a_j
    db_i = exp2(G-_i) (f S^T)_i  + sum over j < i of exp2(E-_ij) (f_i . z_j) a_j
    da_j = exp2(U_j) (Z Y^T)_j   + sums over i of exp2(E_ij) (e_i . z_j) q_i
                                                  exp2(E-_ij) (f_i . z_j) b_i

and in `dplr` the same of v_j for z_j, with k_j for a_j. In KDA what goes to b and a
goes to k. `_meet`, grid [B N, H], makes the products of e and f with Z and v.
`gradients`, grid [B N, H, K / 64], has 64 channels in registers. Through
each exponent the gradient is q dq, b db, a da or k dk, and the transposed matrix of
zeros and ones takes it to g. Nothing is summed beyond a chunk, and no pair of tokens
that a decay is not between; in the last blocks such pairs cancel, up to 2^-17.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxseq_kernels import hopper, hopper_triangular
from jaxseq_kernels.hopper_decays import (
  BLOCK,
  UNIT,
  Documents,
  Maths,
  around,
  earlier,
  in_one_loop,
  inside,
  later,
  load,
  over_halves,
  total_of,
  wide,
)
from jaxseq_kernels.matrix_states import CHUNK, up

__all__ = ["Chunks", "gradients", "prepare"]

bf16, f16, f32 = jnp.bfloat16, jnp.float16, jnp.float32


class Chunks(NamedTuple):
  """Each chunk as a map of the state before it; in bfloat16 but for D.

  Attributes:
    Q: [B, T', H, K'], T being padded to a multiple of 8 and K to one of 64.
    W: [B, T', H, K'].
    A: [B, T', H, K'].
    D: [B, H, N, K'] float32.
    P: [B, H, N, CHUNK, CHUNK].
    X: [B, H, N, CHUNK, CHUNK], in KDA [B, H, N, 2 CHUNK, CHUNK]: two halves.
    R: [B, T', H, K'], of `dplr`, as the others.
    O: [B, H, N, CHUNK, CHUNK].
    N: [B, H, N, CHUNK, CHUNK].
  """

  Q: jax.Array
  W: jax.Array
  A: jax.Array
  D: jax.Array
  P: jax.Array
  X: jax.Array
  R: jax.Array | None = None
  O: jax.Array | None = None  # noqa: E741
  N: jax.Array | None = None


def prepare(
  q, k, g, docs, b=None, a=None, beta=None, *, scale, interpret=False
) -> Chunks:
  """What the scans need of each chunk.

  Args:
    q: [B, T, H, K] bfloat16, K a multiple of 8.
    k: [B, T, H, K].
    g: [B, T', H, K''] float32, natural logarithms of decays; T' is T padded with zeros
      to a multiple of 8, K'' K to one of 32 and at least 64.
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
  vectors = jax.ShapeDtypeStruct((B, up(T, 8), H, blocks * BLOCK), bf16)
  pairs = jax.ShapeDtypeStruct((B, H, N, CHUNK, CHUNK), bf16)
  outs = dict(Q=vectors, W=vectors, A=vectors, P=pairs)
  outs["D"] = jax.ShapeDtypeStruct((B, H, N, blocks * BLOCK), f32)
  if general:
    outs.update(X=pairs, R=vectors, O=pairs, N=pairs)
  else:
    outs["X"] = jax.ShapeDtypeStruct((B, H, N, 2 * CHUNK, CHUNK), bf16)
  names = [*arrays, *outs]
  product = hopper.plain_product if interpret else hopper.product
  tokens = hopper.Tokens(q, k, depth=BLOCK, interpret=interpret)

  def program(*refs, given, gates_s, staged, reads_s, zero_s, arrived):
    ref = dict(zip(names, refs, strict=True))
    *named, (M_s, X_s) = given
    (q_s, k_s, g_s, *others), copied = named[0], named[-1]
    b_s, a_s = others or (k_s, k_s)
    maths = Maths(product, zero_s)
    batch, head = jax.lax.axis_index("batch"), jax.lax.axis_index("head")
    at, n = jax.lax.div(batch, N), jax.lax.rem(batch, N)
    rows = pl.ds(n * CHUNK, CHUNK)
    documents = Documents(ref["docs"].at[at, n], False)
    # What is beyond the array's end arrives as 0, and is not written.
    part = lambda c: pl.ds(c * BLOCK, BLOCK)
    vectors_of = lambda name, c: ref[name].at[at, rows, head, part(c)]
    pairs_of = lambda name: ref[name].at[at, head, n]

    def send(x, buffer, to):
      buffer[...] = x.astype(bf16)
      plgpu.commit_smem()
      plgpu.copy_smem_to_gmem(buffer, to)

    def read(c):
      """Q and W, in `dplr` as far as it is still to be multiplied by X."""
      share = jnp.exp2(maths.outward(gates_s, False))
      share *= hopper.along_rows(documents.read(), BLOCK)
      reads = wide(b_s) * share
      if general:
        reads_s[0].at[c][...] = (reads * _undo(gates_s)).astype(f16)
      else:
        send(-reads, staged[1], vectors_of("W", c))
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

    def add(c, carry):
      sums, self_a, self_k = carry
      plgpu.wait_smem_to_gmem(0, wait_read_only=True)
      for name, buffer in zip(("q", "k", "g", "b", "a"), copied):
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
      buffers = (q_s, k_s, b_s, a_s, gates_s, staged)
      add_pairs = lambda half, sums: _pairs(maths, half, sums, *buffers)
      over = in_one_loop if general else over_halves
      sums = over(maths.sizes(gates_s), add_pairs, sums)
      read(c)
      write(c)
      return sums, self_a, self_k

    sums = (hopper.zeros((CHUNK, CHUNK)),) * (4 if general else 2)
    none = hopper.zeros((CHUNK,), hopper.ROWS)
    carry = (sums, none, none)
    sums, self_a, self_k = jax.lax.fori_loop(0, blocks, add, carry)
    P, M, *others = (jnp.where(documents.same(), x, 0.0) for x in sums)
    P += maths.diagonal(hopper.along_rows(self_a, CHUNK))
    if general:
      O, L = others
      O += maths.diagonal(hopper.along_rows(self_k, CHUNK))
    else:
      P *= hopper.along_cols(load(beta_of(1), hopper.COLS), CHUNK)
      M *= hopper.along_rows(-load(beta_of(0), hopper.ROWS), CHUNK)
    send(P * scale, staged[0], pairs_of("P"))
    if general:
      gates_s[...] = L.astype(f16)
      send(O * scale, staged[1], pairs_of("O"))
    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
    if interpret:
      X_s[...] = hopper_triangular.plain_inverse(M.T)
    else:
      hopper_triangular.inverse(M, M_s.at[:, pl.ds(0, CHUNK)], X_s)
    i = maths.rows
    X = load(X_s) + inside((i, i + 1), jnp.ones((), f32))
    # In halves: what cancels when keys repeat is not to leave its rounding.
    if general:
      halves = hopper.halves(X, f16)
      times = lambda x: product([*halves], [x, x])
      made = [(X, pairs_of("X")), (times(gates_s), pairs_of("N"))]
      for c in range(blocks):
        made.append((times(reads_s[0].at[c]), vectors_of("W", head * 0 + c)))
    else:
      made = list(zip(hopper.halves(X, bf16), hopper.stacked(pairs_of("X"))))
    for slot, (x, to) in enumerate(made):
      plgpu.wait_smem_to_gmem(1, wait_read_only=True)
      send(x, staged[slot % 2], to)
    plgpu.wait_smem_to_gmem(0)

  tile = hopper.tiles((CHUNK, BLOCK), bf16)
  run = plgpu.kernel(
    program,
    out_type=list(outs.values()),
    grid=(B * N, H),
    grid_names=("batch", "head"),
    scratch_types=dict(
      given=plgpu.RefUnion(
        *(
          [vector, vector, hopper.tiles((CHUNK, BLOCK), f32), *[vector] * (2 * general)]
          for vector in tokens.names_of(CHUNK, BLOCK)
        ),
        [
          plgpu.SMEM((CHUNK, hopper_triangular.ROW), f32),
          plgpu.SMEM((CHUNK, CHUNK), f32),
        ],
      ),
      gates_s=hopper.tiles((CHUNK, BLOCK), f16),
      staged=[tile] * (4 if general else 3),
      reads_s=[hopper.tiles((blocks, CHUNK, BLOCK), f16)] * general,
      zero_s=plgpu.SMEM((CHUNK,), jnp.int32),
      arrived=plgpu.Barrier(num_arrivals=5 if general else 3),
    ),
    compiler_params=plgpu.CompilerParams(approx_math=True),
    kernel_name=f"{'dplr' if general else 'channel_delta_rule'}_prepare",
    interpret=interpret or None,
  )
  made = run(*arrays.values())
  return Chunks(**dict(zip(outs, made, strict=True)))


def _pairs(maths, half, sums, q_s, k_s, b_s, a_s, gates_s, staged):
  """Of halves of blocks, added to: P, M transposed and, of `dplr`, O and L."""
  P, M, *others = sums
  general = bool(others)
  queries, writes, *buffers = staged
  keys = buffers[-1]
  reads = buffers[0] if general or half.last else writes
  E = maths.exponents(half, gates_s)
  share = jnp.exp2(half.flipped(E))
  writes[...] = (wide(a_s) * share).astype(bf16)
  if general:
    keys[...] = (wide(k_s) * share).astype(bf16)
  share = jnp.exp2(E)
  queries[...] = (wide(q_s) * share).astype(bf16)
  if reads is not writes:
    share *= _undo(gates_s) if general else 1.0
    reads[...] = (wide(b_s) * share).astype(bf16)
  plgpu.commit_smem()
  product = lambda x, y: maths.product(x, y.T)
  P += inside(earlier(maths.rows, half), product(queries, writes))
  M += inside(later(maths.rows, half), product(writes, reads))
  if not general:
    return P, M
  O, L = others
  O += inside(earlier(maths.rows, half), product(queries, keys))
  L += inside(earlier(maths.rows, half), product(reads, keys))
  return P, M, O, L


def _undo(gates_s):
  """What undoes each token's own decay."""
  return jnp.exp2(wide(gates_s) * (-1 / UNIT))


def _twice(beta):
  """Once for each layout of registers that it is read in."""
  if beta is None:
    return None
  return jnp.broadcast_to(beta[:, :, :, None], (*beta.shape[:3], 2, CHUNK))


def gradients(
  q,
  k,
  v,
  do,
  g,
  docs,
  X,
  S,
  Y,
  Z,
  dZ,
  b=None,
  a=None,
  beta=None,
  *,
  scale,
  interpret=False,
):
  """dq, dk, dg and, of `dplr`, db and da.

  Args:
    q: As k, g, docs, b, a, beta, scale and interpret, of `prepare`.
    k: ...
    v: [B, T, H, V] bfloat16, V a multiple of 8. None for KDA.
    do: [B, T, H, V].
    g: ...
    docs: ...
    X: Of `Chunks`; KDA needs none.
    S: [B, H, N, V', K'] bfloat16, the state before each chunk, transposed.
    Y: The gradient of that after it.
    Z: [B, T, H, V].
    dZ: [B, T, H, V]; for KDA dv, which is X^T dZ.
    b: ...
    a: ...
    beta: ...
    scale: ...
    interpret: ...

  Returns:
    dq, dk, dg, db and da: [B, T, H, K] in bfloat16, dg in float32, as g. None for what
    is not there. beta's is that of the values, and made of it elsewhere.
  """
  B, T, H, K = q.shape
  V, N, blocks, general = do.shape[-1], docs.shape[1], -(-K // BLOCK), beta is None
  product = hopper.plain_product if interpret else hopper.product
  tokens = hopper.Tokens(q, k, do, depth=BLOCK, interpret=interpret)
  parts = -(-V // BLOCK)
  X = X if general else None
  pairs, f = _meet(v, do, docs, X, Z, dZ, scale=scale, interpret=interpret)
  vectors = dict(q=q, k=k, g=g) | (dict(b=b, a=a) if general else {})
  values = dict(e=do, f=f, Z=Z) | (dict(v=v) if general else {})
  states = dict(S=S, Y=Y)
  arrays = vectors | values | states | dict(pairs=pairs, docs=docs)
  outs = {
    "d" + name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in vectors.items()
  }
  if not general:
    arrays["beta"] = beta
  names, count = [*arrays, *outs], pairs.shape[3]

  def program(*refs, given, g_s, tiles, gates_s, zero_s, barriers):
    ref = dict(zip(names, refs, strict=True))
    of_vectors, vectors_copied = (
      dict(zip(vectors, (*named[:2], g_s, *named[2:])))
      for named in tokens.names(*given)
    )
    tiles, tiles_copied = tokens.names(*tiles)
    of_values, values_copied = (
      dict(zip([*values, *states], named)) for named in (tiles, tiles_copied)
    )
    met, staged = tiles[:count], tiles[count:]  # When the values have been used.
    arrived, values_arrived, met_arrived = barriers
    batch, head = jax.lax.axis_index("batch"), jax.lax.axis_index("head")
    block = jax.lax.axis_index("block")
    at, n = jax.lax.div(batch, N), jax.lax.rem(batch, N)
    rows, channels = pl.ds(n * CHUNK, CHUNK), pl.ds(block * BLOCK, BLOCK)
    copy = plgpu.copy_gmem_to_smem

    def fetch(d):
      part = pl.ds(d * BLOCK, BLOCK)
      for name in values:
        here = ref[name].at[at, rows, head, part]
        copy(here, values_copied[name], values_arrived)
      for name in states:
        here = ref[name].at[at, head, n, part, channels]
        copy(here, values_copied[name], values_arrived)

    for name, buffer in vectors_copied.items():
      copy(ref[name].at[at, rows, head, channels], buffer, arrived)
    fetch(block * 0)
    maths = Maths(product, zero_s)
    documents = Documents(ref["docs"].at[at, n], False)
    beta_of = None if general else ref["beta"].at[at, head, n]
    part = _Part(maths, of_vectors, gates_s, beta_of, met, staged)
    plgpu.barrier_wait(arrived)
    gates = maths.gates(of_vectors["g"])
    gates_s[...] = gates
    total = jnp.exp2(total_of(gates) + documents.none())
    plgpu.commit_smem()
    sizes = maths.sizes(gates_s)

    def add(d, carry):
      part.d, z = carry
      plgpu.barrier_wait(values_arrived)
      z += wide(of_values["S"]) * wide(of_values["Y"])
      part.add_states(**of_values)
      plgpu.commit_smem()  # All have read.
      pl.when(d + 1 < parts)(lambda: fetch(d + 1))
      return part.d, z

    none = hopper.zeros((CHUNK, BLOCK))
    carry = (dict.fromkeys(part.d, none), none)
    part.d, z = jax.lax.fori_loop(0, parts, add, carry)
    for index, to in enumerate(tiles_copied[:count]):
      copy(ref["pairs"].at[at, head, n, index], to, met_arrived)
    z = hopper.sum_of_cols(z) * total
    of_vectors["g"][...] = hopper.along_cols(z, CHUNK)
    part.take_states(documents, scale)
    plgpu.barrier_wait(met_arrived)
    part.add_selves()
    # One side after the other, as there are not registers enough for both.
    for side in (part.to_rows, part.to_cols):
      part.d = in_one_loop(sizes, side, part.d)

    if not general:
      part.d["k"] = part.d["b"] + part.d["a"] * part.beta()
    for name, buffer in of_vectors.items():
      if name != "g":
        buffer[...] = part.d[name].astype(bf16)
    plgpu.commit_smem()
    for name, buffer in vectors_copied.items():
      plgpu.copy_smem_to_gmem(buffer, ref["d" + name].at[at, rows, head, channels])
    plgpu.wait_smem_to_gmem(0)

  tile = tokens.buffer(CHUNK, BLOCK)
  run = plgpu.kernel(
    program,
    out_type=list(outs.values()),
    grid=(B * N, H, blocks),
    grid_names=("batch", "head", "block"),
    scratch_types=dict(
      given=[tile] * (len(vectors) - 1),
      g_s=hopper.tiles((CHUNK, BLOCK), f32),
      tiles=[tile] * max(len(values | states), count + 2),
      gates_s=hopper.tiles((CHUNK, BLOCK), f16),
      zero_s=plgpu.SMEM((CHUNK,), jnp.int32),
      barriers=[
        plgpu.Barrier(num_arrivals=arrivals)
        for arrivals in (len(vectors), len(values | states), count)
      ],
    ),
    compiler_params=plgpu.CompilerParams(approx_math=True),
    kernel_name=f"{'dplr' if general else 'channel_delta_rule'}_gradients",
    interpret=interpret or None,
  )
  made = dict(zip(outs, run(*arrays.values()), strict=True))
  return tuple(made.get(name) for name in ("dq", "dk", "dg", "db", "da"))


class _Part:
  """The gradients of a chunk's vectors in 64 channels.

  Attributes:
    d: dq, db, da and, of `dplr`, dk, as far as they have been added.
    met: By who reads and who is written, the products of their gradients and values:
      one array of pairs, or two halves.
  """

  def __init__(self, maths, vectors, gates_s, beta, met, staged):
    self.maths, self.vectors, self.gates_s = maths, vectors, gates_s
    self.beta_of, self.staged = beta, staged
    self.general = beta is None
    self.written = ("a", "k") if self.general else ("a",)
    self.gate_parts = 1 if self.general else 2  # In KDA more cancels.
    kinds = [(read, name) for name in self.written for read in ("q", "b")]
    parts = len(met) // len(kinds)
    self.met = {kind: met[parts * i :][:parts] for i, kind in enumerate(kinds)}
    self.d = dict.fromkeys(("q", "b", *self.written))

  def beta(self):
    """By row."""
    return hopper.along_rows(load(self.beta_of, hopper.ROWS), BLOCK)

  def wide(self, name):
    """q, b, a or k, in KDA made of k."""
    if self.general or name in ("q", "k"):
      return wide(self.vectors[name])
    return self.wide("k") * self.beta() if name == "a" else self.wide("k")

  def share_of(self, name, exponent):
    """What b reads has not yet faded by its token's own decay."""
    if name == "b" and self.general:
      exponent -= wide(self.gates_s) * (1 / UNIT)
    return jnp.exp2(exponent)

  def add_states(self, e, f, Z, S, Y, v=None):
    """Products of 64 of the values, their shares of the state still to be taken."""
    self.d = dict(self.d)
    for name, x, y in (("q", e, S), ("b", f, S), ("a", Z, Y), ("k", v, Y)):
      if x is not None:
        self.d[name] += self.maths.product(x, y)

  def take_states(self, documents, scale):
    """What passes from the state before, and to that after."""
    d, i = self.d, self.maths.rows
    E = self.maths.outward(self.gates_s, False)
    read = documents.read()
    d["q"] *= self.share_of("q", E) * hopper.along_rows(read * scale, BLOCK)
    read = read if self.general else -read
    d["b"] *= self.share_of("b", E) * hopper.along_rows(read, BLOCK)
    z = self.wide("b") * d["b"]
    y = self.wide("q") * d["q"] + z
    if self.general:
      self.lacks_own(z)
    self.to_gates(y, (i, CHUNK), parts=self.gate_parts)
    share = jnp.exp2(self.maths.outward(self.gates_s, True))
    share *= hopper.along_rows(documents.write(), BLOCK)
    y = 0.0
    for name in self.written:
      d[name] *= share
      y += self.wide(name) * d[name]
    self.to_gates(y, (0, i), parts=self.gate_parts)

  def add_selves(self):
    """What outputs have of their own tokens."""
    for name in self.written:
      own = sum(map(wide, self.met["q", name]), hopper.zeros((CHUNK, CHUNK)))
      own = hopper.along_rows(hopper.sum_of_rows(self.maths.diagonal(own)), BLOCK)
      self.d["q"] += own * self.wide(name)
      self.d[name] += own * self.wide("q")

  def to_rows(self, half, d):
    """Adds to d what q and b have of pairs in the halves of blocks."""
    d = dict(d)
    E = self.maths.exponents(half, self.gates_s)
    share = jnp.exp2(half.flipped(E))
    writes = self._stage({name: share for name in self.written})
    y, mask = 0.0, inside(earlier(self.maths.rows, half), jnp.bfloat16(1))
    for name in ("q", "b"):
      left, right = [], []
      for written, buffer in zip(self.written, writes):
        left += [load(pairs) * mask for pairs in self.met[name, written]]
        right += [buffer] * len(self.met[name, written])
      here, share = self.maths.product(left, right), self.share_of(name, E)
      z = hopper.rounded(self.wide(name) * share) * here
      d[name] += here * share
      y += z
    if self.general:
      self.lacks_own(z)
    self._from_around(y, half)
    return d

  def to_cols(self, half, d):
    """Adds what a and k have of them."""
    d = dict(d)
    E = self.maths.exponents(half, self.gates_s)
    reads = self._stage({name: self.share_of(name, E) for name in ("q", "b")})
    share = jnp.exp2(half.flipped(E))
    y, mask = 0.0, inside(later(self.maths.rows, half), jnp.bfloat16(1))
    for name in self.written:
      left, right = [], []
      for read, buffer in zip(("q", "b"), reads):
        left += [load(pairs.T) * mask for pairs in self.met[read, name]]
        right += [buffer] * len(self.met[read, name])
      here = self.maths.product(left, right)
      y += hopper.rounded(self.wide(name) * share) * here
      d[name] += here * share
    self._from_around(half.flipped(y), half)
    return d

  def _from_around(self, y, half):
    """Adds to dg, y being the gradient of E."""
    # What cancels does so all the more if it is not rounded to 8 bits.
    parts = jnp.where(half.last, 2, 1)
    self.to_gates(y, *around(self.maths.rows, half), parts=parts)

  def _stage(self, shares):
    for buffer, (name, share) in zip(self.staged, shares.items()):
      buffer[...] = (self.wide(name) * share).astype(bf16)
    plgpu.commit_smem()
    return self.staged[: len(shares)]

  def lacks_own(self, y):
    """Takes from dg what is there of sums without the token's own gate."""
    self.vectors["g"][...] = load(self.vectors["g"]) - y

  def to_gates(self, y, stretch, sign=None, *, parts):
    """Adds to dg, in shared memory, what `Maths.to_gates` does."""
    g_s, staged_s = self.vectors["g"], self.staged[0]
    g_s[...] = self.maths.to_gates(load(g_s), y, stretch, staged_s, sign, parts)


def _meet(v, do, docs, X, Z, dZ, *, scale, interpret):
  """Products of e and f with Z (and v), and f.

  Returns:
    [B, H, N, 4, CHUNK, CHUNK] bfloat16: of e and Z where j <= i, of f and Z where
    j < i, and of e and v, f and v likewise. In KDA, two halves of the first and two of
    the second, all of whose bits are needed where keys repeat. And f [B, T, H, V].
  """
  B, T, H, V = do.shape
  N, general = docs.shape[1], X is not None
  tokens = hopper.Tokens(do, depth=up(V, BLOCK), interpret=interpret)
  count = 4 if general else 2
  sign = 1 if general else -1
  product = hopper.plain_product if interpret else hopper.product
  values = dict(e=do, f=dZ, Z=Z) | (dict(v=v) if general else {})
  arrays = values | (dict(X=X) if general else {})
  outs = [jax.ShapeDtypeStruct((B, H, N, 4, CHUNK, CHUNK), bf16)]
  if general:
    outs.append(jax.ShapeDtypeStruct(do.shape, bf16))

  def program(*refs, buffers, X_s, out_s, zero_s, arrived):
    inputs, (docs_ref, met_ref, *f_ref) = refs[: len(arrays)], refs[len(arrays) :]
    batch, head = jax.lax.axis_index("batch"), jax.lax.axis_index("head")
    at, n = jax.lax.div(batch, N), jax.lax.rem(batch, N)
    rows = at, pl.ds(n * CHUNK, CHUNK), head
    buffers, copied = tokens.names(*buffers)
    for ref, buffer in zip(inputs, copied):
      tokens.fetch(ref.at[rows], buffer, 0, arrived)
    if general:
      plgpu.copy_gmem_to_smem(inputs[-1].at[at, head, n], X_s, arrived)
    maths = Maths(product, zero_s)
    documents = Documents(docs_ref.at[at, n], False)
    plgpu.barrier_wait(arrived)
    e, f, Z, *others = (tokens.at(x, 0) for x in buffers)
    if general:
      for x in f:
        x[...] = product(X_s.T, x).astype(bf16)
      plgpu.commit_smem()
      for part, x in zip(tokens.parts, tokens.at(copied[1], 0)):
        columns = pl.ds(head * 0 + part.start, part.size)
        plgpu.copy_smem_to_gmem(x, f_ref[0].at[*rows, columns])

    i, slot = maths.rows, 0
    for index in range(count):
      right = others[0] if index > 1 else Z
      x = product(f if index % 2 else e, [y.T for y in right])
      x = inside((0, i if index % 2 else i + 1), jnp.where(documents.same(), x, 0.0))
      halves = hopper.halves(x * (sign if index % 2 else scale), bf16)
      for half in halves[: 4 // count]:
        plgpu.wait_smem_to_gmem(1, wait_read_only=True)
        out_s.at[slot % 2][...] = half
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(out_s.at[slot % 2], met_ref.at[at, head, n, slot])
        slot += 1
    plgpu.wait_smem_to_gmem(0)

  run = plgpu.kernel(
    program,
    out_type=outs,
    grid=(B * N, H),
    grid_names=("batch", "head"),
    scratch_types=dict(
      buffers=[tokens.deep(1)] * len(values),
      X_s=hopper.tiles((CHUNK, CHUNK), bf16) if general else None,
      out_s=hopper.tiles((2, CHUNK, CHUNK), bf16),
      zero_s=plgpu.SMEM((CHUNK,), jnp.int32),
      arrived=plgpu.Barrier(num_arrivals=len(values) * len(tokens.parts) + general),
    ),
    compiler_params=plgpu.CompilerParams(approx_math=True),
    kernel_name=f"{'dplr' if general else 'channel_delta_rule'}_meet",
    interpret=interpret or None,
  )
  pairs, *f = run(*arrays.values(), docs)
  return pairs, f[0] if general else dZ
