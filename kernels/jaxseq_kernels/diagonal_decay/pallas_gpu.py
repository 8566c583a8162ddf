"""GPU kernels for Hopper, by Mosaic GPU: a scan, and what its gradients are made of.

    o_i = s (sum_k q_ik exp2(L_ik) S_k + sum_{j <= i} A_ij v_j)
    S'  = exp2(G_C) S + sum_j (exp2(U_j) k_j) v_j^T
    A_ij = sum_k q_ik k_jk exp2(g_{j+1,k} + ... + g_ik)

for each chunk of C tokens, g the binary logarithms of decays, L_i their sum from the
chunk's start to i, U_j that from j to its end, G_C that of all. A is no product of
matrices, but a sum of a few, each for the pairs of tokens in one block's two halves:
there the exponent is the sum up to the middle of the block and that from there on,

    A_ij = sum_k (q_ik exp2(E_ik)) (k_jk exp2(E_jk)),  j < middle <= i,

for blocks of 64, 32 and 16 tokens: no exponent is positive. In the blocks of 8 that
remain, pairs of one half need exp2(E_i) / exp2(E_j) as well, with sign: therefore no
token's decay counts as less than 2^-28 (4e-9), and nothing overflows. Where documents
start, pairs are masked. A token's score with itself is a plain sum.

All exponents, L, U and E, are sums over the tokens in between and nothing else: each is
a matrix of zeros and ones times g. So they are products on the matrix unit, of g in
float16 (relative error 2^-12: an exponent e is off by at most 2^-12 e, a share 2^e by
1e-4 of one).

`scan`: grid [B P, H, V / 64]. A program, one warpgroup, walks over the chunks of a
piece of a head's sequence, for 64 columns of the values; it keeps the state,
transposed, in registers. Channels are taken 64 at a time, and the next but one are
copied meanwhile.

`gradients`: grid [B N, H, K / 64], a program for each chunk and 64 channels. It has the
states before and after from two scans, and makes dq, dk and dg: through each exponent
the gradient is q dq or k dk, and the transposed matrix of zeros and ones takes it to g.
Nothing is summed beyond a chunk, and no pair of tokens that a decay is not between.
"""

import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxseq_kernels import hopper

__all__ = ["BLOCK", "CHUNK", "ends", "gradients", "scan"]

CHUNK = 64  # Tokens.
BLOCK = 64  # Columns of the values and channels of the keys that are taken at a time.
STAGES = 2  # Blocks of channels that are copied ahead.
HALVES = (32, 16, 8)  # Of the blocks whose halves are multiplied.
LEAST = 4  # Half of the smallest block.
LOWEST = -28.0  # LEAST times as much, and a factor of 2^16, are in a float's range.
# Float16 has 11 bits from 2^-14 to 2^16. What a token forgets begins at 1e-7.
UNIT = 1024.0


def scan(q, k, v, g, docs, state, *, scale, reverse=False, keep=False, interpret=False):
  """Outputs and last states.

  Args:
    q: [B, T, H, K] bfloat16; T a multiple of 8, K and V of 32.
    k: [B, T, H, K].
    v: [B, T, H, V].
    g: [B, T, H, K] float32, natural logarithms of decays.
    docs: [B, N, 2, CHUNK] float32, how many documents have started in the chunk up to
      and with a token; twice, as no buffer can be read in two layouts of registers.
      N = ceil(T / CHUNK).
    state: [B P, H, V', K'] float32 before each of P pieces, V' and K' being V and K
      padded to multiples of 64. Or None, for one piece and zeros.
    scale: Of the outputs.
    reverse: From the last token to the first, each reading itself and those after it;
      the decay of a pair of tokens is the same as forwards.
    keep: Also return the states before each chunk (after it, if reverse).

  Returns:
    o [B, T, H, V] bfloat16, the states after each piece as those before, and if `keep`
    [B, H, N, V', K'] bfloat16.
  """
  options = (state, scale, reverse, keep, interpret, None)
  return _walk(q, k, v, g, docs, *options)


def ends(k, v, g, docs, *, pieces, reverse=False, interpret=False):
  """What each of several pieces leaves of zeros, and of a state before it.

  Returns:
    The states after each piece, and [B P, H, K'] float32 binary logarithms.
  """
  return _walk(None, k, v, g, docs, None, 1.0, reverse, False, interpret, pieces)


def _walk(q, k, v, g, docs, state, scale, reverse, keep, interpret, pieces):
  B, T, H, K = k.shape
  V, N = v.shape[-1], docs.shape[1]
  P = pieces or (1 if state is None else state.shape[0] // B)
  blocks, width = -(-K // BLOCK), _up(V)
  bf16, f32 = jnp.bfloat16, jnp.float32
  reads = q is not None

  def program(*refs):
    refs = list(refs)
    q_ref = refs.pop(0) if reads else None
    k_ref, v_ref, g_ref, docs_ref = refs[:4]
    del refs[:4]
    state_ref = None if state is None else refs.pop(0)
    o_ref = refs.pop(0) if reads else None
    last_ref = refs.pop(0)
    totals_ref = None if reads else refs.pop(0)
    kept_ref = refs.pop(0) if keep else None
    q_s, k_s, g_s, v_s, gates_s, work_s, state_s, o_s, zero_s = refs[:9]
    arrived, v_arrived = refs[9:]
    maths = _Maths(hopper.plain_product if interpret else hopper.product, zero_s)
    product = maths.product

    batch, head = jax.lax.axis_index("batch"), jax.lax.axis_index("head")
    block = jax.lax.axis_index("block")
    b, piece = jax.lax.div(batch, P), jax.lax.rem(batch, P)
    columns = pl.ds(block * BLOCK, BLOCK)
    # What is beyond the array's end arrives as 0.
    channels = [pl.ds(block * 0 + c * BLOCK, BLOCK) for c in range(blocks)]
    size = -(-N // P)
    first = piece * size
    count = jnp.clip(N - first, 0, size)

    def place(step):
      n = first + (count - 1 - step if reverse else step)
      return n, pl.ds(n * CHUNK, CHUNK)

    def slot_of(step, c):
      return jax.lax.rem(step * blocks + c, STAGES)

    def fetch(step, c):
      step, c = step + c // blocks, c % blocks

      @pl.when(step < count)
      def _():
        rows, slot = place(step)[1], slot_of(step, c)
        for ref, buffer in ((q_ref, q_s), (k_ref, k_s), (g_ref, g_s)):
          if ref is not None:
            here = ref.at[b, rows, head, channels[c]]
            plgpu.copy_gmem_to_smem(here, buffer.at[slot], arrived.at[slot])

    def fetch_v(step):
      @pl.when(step < count)
      def _():
        here = v_ref.at[b, place(step)[1], head, columns]
        plgpu.copy_gmem_to_smem(here, v_s, v_arrived)

    for c in range(STAGES):
      fetch(0, c)
    fetch_v(0)

    def chunk(step, carry):
      states, totals = list(carry[0]), list(carry[1])
      n, rows = place(step)
      documents = _Documents(docs_ref.at[b, n], reverse)
      o = A = self_score = 0.0
      for c in range(blocks):
        slot = slot_of(step, c)
        plgpu.barrier_wait(arrived.at[slot])
        gates = maths.gates(g_s.at[slot])
        gates_s[...] = (gates * UNIT).astype(jnp.float16)
        total = hopper.sum_of_cols(gates) + documents.none()
        totals[c] += total
        if reads:
          plgpu.wait_smem_to_gmem(0, wait_read_only=True)
          state_s[...] = states[c].astype(bf16)
        states[c] *= hopper.along_cols(jnp.exp2(total), BLOCK)
        plgpu.commit_smem()
        if keep:
          to = kept_ref.at[b, head, n, columns, channels[c]]
          plgpu.copy_smem_to_gmem(state_s, to)
        if reads:
          near = _wide(q_s.at[slot]) * jnp.exp2(maths.outward(gates_s, reverse))
          o = product(near.astype(bf16), state_s.T, o if c else None)
          A += maths.scores(q_s.at[slot], k_s.at[slot], gates_s, work_s, reverse)
          self_score += hopper.sum_of_rows(_wide(q_s.at[slot]) * _wide(k_s.at[slot]))
        far = _wide(k_s.at[slot]) * jnp.exp2(maths.outward(gates_s, not reverse))
        far *= hopper.along_rows(documents.write(), BLOCK)
        work_s[...] = far.astype(bf16)
        plgpu.commit_smem()
        fetch(step, c + STAGES)
        if c == 0:
          plgpu.barrier_wait(v_arrived)
        states[c] = product(v_s.T, work_s, states[c])

      if reads:
        A = jnp.where(documents.same(), A, 0.0)
        i, j = maths.indices
        A += jnp.where(i == j, hopper.along_rows(self_score, CHUNK), 0.0)
        o *= hopper.along_rows(documents.read(), BLOCK)
        o = product(A.astype(bf16), v_s, o) * scale
        fetch_v(step + 1)
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        o_s[...] = o.astype(bf16)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(o_s, o_ref.at[b, rows, head, columns])
      else:
        fetch_v(step + 1)
      return tuple(states), tuple(totals)

    zeros = lambda shape, layout: plgpu.layout_cast(jnp.zeros(shape, f32), layout)
    states = [zeros((BLOCK, BLOCK), hopper.TILE)] * blocks
    if state is not None:
      before = state_ref.at[batch, head, columns]
      states = [_load(before.at[:, at]) for at in channels]
    totals = [zeros((BLOCK,), hopper.COLS)] * blocks
    carry = (tuple(states), tuple(totals))
    states, totals = jax.lax.fori_loop(0, count, chunk, carry)
    for c, at in enumerate(channels):
      last_ref.at[batch, head, columns, at][...] = states[c]
      if not reads:
        totals_ref.at[batch, head, at][...] = totals[c]
    plgpu.wait_smem_to_gmem(0)

  of_keys = lambda dtype: _tiles((STAGES, CHUNK, BLOCK), dtype, K)
  out_type = [jax.ShapeDtypeStruct((B * P, H, width, blocks * BLOCK), f32)]
  if not reads:
    out_type.append(jax.ShapeDtypeStruct((B * P, H, blocks * BLOCK), f32))
  else:
    out_type.insert(0, jax.ShapeDtypeStruct((B, T, H, V), bf16))
  if keep:
    out_type.append(jax.ShapeDtypeStruct((B, H, N, width, blocks * BLOCK), bf16))
  run = plgpu.kernel(
    program,
    out_type=out_type,
    grid=(B * P, H, width // BLOCK),
    grid_names=("batch", "head", "block"),
    scratch_types=[
      of_keys(bf16) if reads else None,
      of_keys(bf16),
      of_keys(f32),
      _tiles((CHUNK, BLOCK), bf16, V),
      _tiles((CHUNK, BLOCK), jnp.float16, BLOCK),
      _tiles((CHUNK, BLOCK), bf16, BLOCK),
      _tiles((BLOCK, BLOCK), bf16, BLOCK) if reads else None,
      _tiles((CHUNK, BLOCK), bf16, V) if reads else None,
      plgpu.SMEM((CHUNK,), jnp.int32),
      plgpu.Barrier(num_arrivals=3 if reads else 2, num_barriers=STAGES),
      plgpu.Barrier(),
    ],
    compiler_params=plgpu.CompilerParams(approx_math=True),
    kernel_name=f"diagonal_decay_{'scan' if reads else 'ends'}",
    interpret=interpret or None,
  )
  return run(*(x for x in (q, k, v, g, docs, state) if x is not None))


def gradients(q, k, v, do, g, docs, before, after, *, scale, interpret=False):
  """dq, dk and dg.

  Args:
    q: As k, v, g and docs, of `scan`.
    k: ...
    v: ...
    do: [B, T, H, V] bfloat16.
    g: ...
    docs: ...
    before: [B, H, N, V', K'] bfloat16, the state before each chunk.
    after: The gradient of that after it, divided by the scale.
    scale: Of o.

  Returns:
    dq and dk in bfloat16 and dg in float32, [B, T, H, K].
  """
  B, T, H, K = q.shape
  V, N = v.shape[-1], docs.shape[1]
  blocks, width = -(-K // BLOCK), _up(V)
  bf16, f32 = jnp.bfloat16, jnp.float32

  def program(*refs):
    q_ref, k_ref, v_ref, do_ref, g_ref, docs_ref, before_ref, after_ref = refs[:8]
    dq_ref, dk_ref, dg_ref = refs[8:11]
    q_s, k_s, v_s, do_s, g_s, before_s, after_s, gates_s, zero_s, *arrived = refs[11:]
    maths = _Maths(hopper.plain_product if interpret else hopper.product, zero_s)
    product = maths.product
    batch, head = jax.lax.axis_index("batch"), jax.lax.axis_index("head")
    block = jax.lax.axis_index("block")
    b, n = jax.lax.div(batch, N), jax.lax.rem(batch, N)
    rows, channels = pl.ds(n * CHUNK, CHUNK), pl.ds(block * BLOCK, BLOCK)
    values = pl.ds(block * 0, width)
    for ref, to in ((g_ref, g_s), (q_ref, q_s), (k_ref, k_s)):
      plgpu.copy_gmem_to_smem(ref.at[b, rows, head, channels], to, arrived[0])
    for ref, to in ((v_ref, v_s), (do_ref, do_s)):
      plgpu.copy_gmem_to_smem(ref.at[b, rows, head, values], to, arrived[1])
    for ref, to in ((before_ref, before_s), (after_ref, after_s)):
      here = ref.at[b, head, n, values, channels]
      plgpu.copy_gmem_to_smem(here, to.at[pl.ds(0, width)], arrived[2])
    forwards, backwards = (_Documents(docs_ref.at[b, n], way) for way in (False, True))

    plgpu.barrier_wait(arrived[0])
    gates = maths.gates(g_s)
    total = jnp.exp2(hopper.sum_of_cols(gates) + forwards.none())
    gates_s[...] = (gates * UNIT).astype(jnp.float16)
    plgpu.commit_smem()
    q, k = lambda: _wide(q_s), lambda: _wide(k_s)

    plgpu.barrier_wait(arrived[2])
    z = 0.0
    for d in range(width // BLOCK):
      part = pl.ds(d * BLOCK, BLOCK)
      z += _wide(before_s.at[part]) * _wide(after_s.at[part])
    z = hopper.sum_of_cols(z) * total

    plgpu.barrier_wait(arrived[1])
    dq = product(do_s, before_s.at[pl.ds(0, width)])
    dk = product(v_s, after_s.at[pl.ds(0, width)])
    # Where the states were is now room for others.
    (P_s, qs), (Pt_s, ks) = (
      (x.at[pl.ds(0, CHUNK)], x.at[pl.ds(CHUNK, CHUNK)]) for x in (before_s, after_s)
    )

    def back(y, which):
      """The gradient of gates, y being that of which @ gates."""
      qs[...] = y.astype(bf16)
      plgpu.commit_smem()
      return product(which.astype(bf16), qs)

    dq *= jnp.exp2(maths.outward(gates_s, False))
    dq *= hopper.along_rows(forwards.read(), BLOCK)
    t, i = maths.indices
    dg = hopper.along_cols(z, CHUNK) + back(q() * dq, _ones(t <= i))
    dk *= jnp.exp2(maths.outward(gates_s, True))
    dk *= hopper.along_rows(backwards.read(), BLOCK)
    t, i = maths.indices
    dg += back(k() * dk, _ones(t > i))

    # Scores of outputs' gradients and values, and transposed.
    P = jnp.where(forwards.same(), product(do_s, v_s.T), 0.0)
    P_s[...] = P.astype(bf16)
    i, j = maths.indices
    P_self = hopper.along_rows(hopper.sum_of_rows(jnp.where(i == j, P, 0.0)), BLOCK)
    Pt = jnp.where(forwards.same(), product(v_s, do_s.T), 0.0)
    Pt_s[...] = Pt.astype(bf16)
    plgpu.commit_smem()
    dq += P_self * k()
    dk += P_self * q()

    for half in (*HALVES, LEAST):
      E = maths.sums(_between(*maths.indices, half), gates_s)
      X = jnp.exp2(E)
      Y = jnp.exp2(-E) if half == LEAST else X
      qs[...] = (q() * X).astype(bf16)
      ks[...] = (k() * Y).astype(bf16)
      plgpu.commit_smem()
      i, j = maths.indices
      dq_here = product(_pairs(i, j, half, _load(P_s)), ks) * X
      i, j = maths.indices
      dk_here = product(_pairs(j, i, half, _load(Pt_s)), qs) * Y
      dq += dq_here
      dk += dk_here
      y, y_keys = q() * dq_here, k() * dk_here
      y = y - y_keys if half == LEAST else y + y_keys
      i, j = maths.indices
      dg += back(y, _between(j, i, half))

    q_s[...] = (dq * scale).astype(bf16)
    k_s[...] = (dk * scale).astype(bf16)
    g_s[...] = dg * scale
    plgpu.commit_smem()
    for ref, x in ((dq_ref, q_s), (dk_ref, k_s), (dg_ref, g_s)):
      plgpu.copy_smem_to_gmem(x, ref.at[b, rows, head, channels])
    plgpu.wait_smem_to_gmem(0)

  of_keys, of_values = _tiles((CHUNK, BLOCK), bf16, K), _tiles((CHUNK, width), bf16, V)
  states = _tiles((max(width, 2 * CHUNK), BLOCK), bf16, BLOCK)
  run = plgpu.kernel(
    program,
    out_type=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, g)],
    grid=(B * N, H, blocks),
    grid_names=("batch", "head", "block"),
    scratch_types=[
      *(of_keys, of_keys, of_values, of_values, _tiles((CHUNK, BLOCK), f32, K)),
      *(states, states, _tiles((CHUNK, BLOCK), jnp.float16, BLOCK)),
      plgpu.SMEM((CHUNK,), jnp.int32),
      *(plgpu.Barrier(num_arrivals=count) for count in (3, 2, 2)),
    ],
    compiler_params=plgpu.CompilerParams(approx_math=True),
    kernel_name="diagonal_decay_gradients",
    interpret=interpret or None,
  )
  return run(q, k, v, do, g, docs, before, after)


class _Maths:
  """Of blocks of 64 tokens and 64 channels."""

  def __init__(self, product, zero_s):
    self.product, self.zero_s = product, zero_s
    zero_s[...] = plgpu.layout_cast(jnp.zeros((CHUNK,), jnp.int32), hopper.COLS)
    plgpu.commit_smem()

  @property
  def indices(self):
    """Of rows and columns; made again for each use.

    Were they the same, the compiler would share all that comes of them: masks and
    matrices of zeros and ones that fill the registers.
    """
    zero = self.zero_s[0]
    i, j = (hopper.iota((CHUNK, CHUNK), axis) for axis in (0, 1))
    return i + zero, j

  def gates(self, g_s):
    """Binary logarithms, limited."""
    return jnp.maximum(_load(g_s) * math.log2(math.e), LOWEST)

  def sums(self, which, gates_s):
    """which @ gates, [CHUNK, BLOCK]."""
    return self.product((which * (1 / UNIT)).astype(jnp.float16), gates_s)

  def outward(self, gates_s, later: bool):
    """L, from the chunk's start to each token, or U, from there to the end."""
    i, j = self.indices
    which = j > i if later else j <= i
    return self.sums(_ones(which), gates_s)

  def scores(self, q_s, k_s, gates_s, work_s, reverse):
    """A_ij where j < i (j > i if reverse), of BLOCK channels."""
    A = 0.0
    for half in (*HALVES, LEAST):
      E = self.sums(_between(*self.indices, half), gates_s)
      E_rows, E_cols = (E, -E) if half == LEAST else (E, E)
      if reverse:
        E_rows, E_cols = E_cols, E_rows
      cols = jnp.exp2(E_cols)
      rows = jnp.exp2(E_rows) if half == LEAST else cols
      work_s[...] = (_wide(k_s) * cols).astype(jnp.bfloat16)
      plgpu.commit_smem()
      here = self.product((_wide(q_s) * rows).astype(jnp.bfloat16), work_s.T)
      i, j = reversed(self.indices) if reverse else self.indices
      A += _pairs(i, j, half, here)
    return A


class _Documents:
  """What the documents of a chunk let through. Loaded at each use, to hold little."""

  def __init__(self, ref, reverse):
    self.ref, self.reverse = ref, reverse

  def read(self):
    """Numbers by row, 1 where the state before is read."""
    return self._at(self.reverse)

  def write(self):
    """Numbers by row, 1 where the state after sees the token."""
    return self._at(not self.reverse)

  def same(self):
    """Tokens of rows and columns are of one document."""
    rows = hopper.along_rows(_load(self.ref.at[0], hopper.ROWS), CHUNK)
    return rows == hopper.along_cols(_load(self.ref.at[1], hopper.COLS), CHUNK)

  def none(self):
    """The binary logarithm of what is kept of the state: 0 or very little."""
    return jnp.where(self.ref[0, CHUNK - 1] > 0, -1e4, 0.0)

  def _at(self, end):
    """Where no document starts between a token and the chunk's start, or its end."""
    number = self.ref[0, CHUNK - 1] if end else 0.0
    return _ones(_load(self.ref.at[0], hopper.ROWS) == number)


def _between(i, t, half):
  """1 for tokens t between i and the middle of its block; -1 if LEAST and after i."""
  at = half.bit_length() - 1
  later = jnp.where(t > i, -1.0 if half == LEAST else 1.0, 0.0)
  x = jnp.where((i & half) == half, _ones(t <= i), later)
  return jnp.where((i >> at) == (t >> at), x, 0.0)


def _pairs(i, j, half, x):
  """x where i is in the second and j in the first half of a block; all j < i if LEAST.

  Masks are nested, as the compiler has no logic of them.
  """
  at = half.bit_length()
  x = jnp.where((i >> at) == (j >> at), x, 0.0)
  if half == LEAST:
    return jnp.where(j < i, x, 0.0)
  return jnp.where((i >> (at - 1)) > (j >> (at - 1)), x, 0.0)


def _ones(which):
  return jnp.where(which, 1.0, 0.0)


def _load(ref, layout=hopper.TILE):
  return plgpu.load(ref, layout=layout, optimized=False)


def _wide(ref):
  return _load(ref).astype(jnp.float32)


def _tiles(shape, dtype, columns):
  """`hopper.tiles` of a width of 64 columns at most, also in float32."""
  size = jnp.dtype(dtype).itemsize
  width = 64 if columns % 64 == 0 and size == 2 else 32
  transforms = (plgpu.TilingTransform((8, width)), plgpu.SwizzleTransform(width * size))
  return plgpu.SMEM(shape, dtype, transforms=transforms)


def _up(size):
  return -(-size // 64) * 64
