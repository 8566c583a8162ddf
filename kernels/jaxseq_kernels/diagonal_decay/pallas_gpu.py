"""GPU kernels for Hopper, by Mosaic GPU: a scan, and what its gradients are made of.

    o_i = s (sum_k q_ik exp2(L_ik) S_k + sum_{j <= i} A_ij v_j)
    S'  = exp2(G_C) S + sum_j (exp2(U_j) k_j) v_j^T
    A_ij = sum_k q_ik k_jk exp2(g_{j+1,k} + ... + g_ik)

for each chunk of C tokens, g the binary logarithms of decays, L_i their sum from the
chunk's start to i, U_j that from j to its end, G_C that of all. `hopper_decays` has
how A and the sums are made.

`scores`: grid [B, H, N], a program, one warpgroup, for the A of each chunk.

`scan`: grid [B P, H, V / 64]. A program walks over the chunks of a piece of a head's
sequence, for 64 columns of the values; it keeps the state, transposed, in registers.
Channels are taken 64 at a time, and the next but one are copied meanwhile.

`gradients`: grid [B N, H, K / 64], a program for each chunk and 64 channels. It has the
states before and after from two scans, and makes dq, dk and dg: through each exponent
the gradient is q dq or k dk, and the transposed matrix of zeros and ones takes it to g.
Nothing is summed beyond a chunk, and no pair of tokens that a decay is not between;
in the last blocks such pairs cancel, up to 2^-17.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxseq_kernels import hopper
from jaxseq_kernels.hopper_decays import (
  BLOCK,
  Documents,
  Maths,
  around,
  earlier,
  inside,
  later,
  load,
  over_halves,
  total_of,
  wide,
)
from jaxseq_kernels.matrix_states import CHUNK, up

__all__ = ["BLOCK", "ends", "gradients", "scan", "scores"]

STAGES = 2  # Blocks of channels that are copied ahead.


def scores(q, k, g, docs, *, interpret=False):
  """A [B, H, N, CHUNK, CHUNK] in bfloat16.

  Args:
    q: As k, g and docs, of `scan`.
    k: ...
    g: ...
    docs: ...
  """
  B, _, H, K = k.shape
  N = docs.shape[1]
  bf16 = jnp.bfloat16
  tokens = hopper.Tokens(q, k, depth=BLOCK, interpret=interpret)

  def program(q_ref, k_ref, g_ref, docs_ref, A_ref, *refs):
    (q_s, k_s), (q_copied, k_copied) = tokens.names(*refs[:2])
    g_s, gates_s, A_s, zero_s, arrived = refs[2:]
    maths = Maths(hopper.plain_product if interpret else hopper.product, zero_s)
    b, head, n = (jax.lax.axis_index(name) for name in ("batch", "head", "chunk"))

    def add(c, carry):
      A, self_score = carry
      # What is beyond the array's end arrives as 0.
      here = b, pl.ds(n * CHUNK, CHUNK), head, pl.ds(c * BLOCK, BLOCK)
      for ref, to in ((q_ref, q_copied), (k_ref, k_copied), (g_ref, g_s)):
        plgpu.copy_gmem_to_smem(ref.at[here], to, arrived)
      plgpu.barrier_wait(arrived)
      gates_s[...] = maths.gates(g_s)
      plgpu.commit_smem()
      A = maths.scores(A, q_s, k_s, gates_s, A_s)
      self_score += hopper.sum_of_rows(wide(q_s) * wide(k_s))
      plgpu.commit_smem()  # Also waits until no warp needs them any more.
      return A, self_score

    carry = (hopper.zeros((CHUNK, CHUNK)), hopper.zeros((CHUNK,), hopper.ROWS))
    A, self_score = jax.lax.fori_loop(0, pl.cdiv(K, BLOCK), add, carry)
    A = jnp.where(Documents(docs_ref.at[b, n], False).same(), A, 0.0)
    A += maths.diagonal(hopper.along_rows(self_score, CHUNK))
    A_s[...] = A.astype(bf16)
    plgpu.commit_smem()
    plgpu.copy_smem_to_gmem(A_s, A_ref.at[b, head, n])
    plgpu.wait_smem_to_gmem(0)

  run = plgpu.kernel(
    program,
    out_type=jax.ShapeDtypeStruct((B, H, N, CHUNK, CHUNK), bf16),
    grid=(B, H, N),
    grid_names=("batch", "head", "chunk"),
    scratch_types=[
      tokens.buffer(CHUNK, BLOCK),
      tokens.buffer(CHUNK, BLOCK),
      hopper.tiles((CHUNK, BLOCK), jnp.float32),
      hopper.tiles((CHUNK, BLOCK), jnp.float16),
      hopper.tiles((CHUNK, CHUNK), bf16),
      plgpu.SMEM((CHUNK,), jnp.int32),
      plgpu.Barrier(num_arrivals=3),
    ],
    compiler_params=plgpu.CompilerParams(approx_math=True),
    kernel_name="diagonal_decay_scores",
    interpret=interpret or None,
  )
  return run(q, k, g, docs)


def scan(
  q, k, v, g, docs, state, scores, *, scale, reverse=False, keep=False, interpret=False
):
  """Outputs and last states.

  Args:
    q: [B, T, H, K] bfloat16, K and V multiples of 8.
    k: [B, T, H, K].
    v: [B, T, H, V].
    g: [B, T', H, K''] float32, natural logarithms of decays; T' is T padded with zeros
      to a multiple of 8, K'' K to one of 32 and at least 64.
    docs: [B, N, 2, CHUNK] float32, how many documents have started in the chunk up to
      and with a token; twice, as no buffer can be read in two layouts of registers.
      N = ceil(T / CHUNK).
    state: [B P, H, V', K'] float32 before each of P pieces, V' and K' being V and K
      padded to multiples of 64. Or None, for one piece and zeros.
    scores: Of q and k.
    scale: Of the outputs.
    reverse: Go from the last token to the first, each reading itself and those after
      it. The scores are those forwards, of k and q: a pair's decay is the same.
    keep: Return more.

  Returns:
    o [B, T, H, V] bfloat16 and the states after each piece as those before. If `keep`,
    also [B, H, N, V', K'] bfloat16, the states before each chunk (after it, if in
    reverse).
  """
  return _walk(q, k, v, g, docs, state, scores, scale, reverse, keep, interpret, None)


def ends(k, v, g, docs, *, pieces, reverse=False, interpret=False):
  """What each of several pieces leaves of zeros, and of a state before it.

  Returns:
    The states after each piece, and [B P, H, K'] float32 binary logarithms.
  """
  return _walk(None, k, v, g, docs, None, None, 1.0, reverse, False, interpret, pieces)


def _walk(q, k, v, g, docs, state, scores, scale, reverse, keep, interpret, pieces):
  B, T, H, K = k.shape
  V, N = v.shape[-1], docs.shape[1]
  P = pieces or (1 if state is None else state.shape[0] // B)
  blocks, width = -(-K // BLOCK), up(V, BLOCK)
  bf16, f32 = jnp.bfloat16, jnp.float32
  reads = q is not None
  tokens = hopper.Tokens(q, k, v, depth=BLOCK, interpret=interpret)

  def program(*refs):
    refs = iter(refs)
    take = lambda used=True: next(refs) if used else None
    q_ref, k_ref, v_ref, g_ref, docs_ref = take(reads), take(), take(), take(), take()
    state_ref, scores_ref = take(state is not None), take(reads)
    o_ref, last_ref, totals_ref = take(reads), take(), take(not reads)
    kept_ref = take(keep)
    g_s, A_s, gates_s, work_s, zero_s, arrived, v_arrived, *named = refs
    (q_s, k_s, v_s, out_s), copied = tokens.names(*named)
    q_copied, k_copied, v_copied, out_copied = copied
    maths = Maths(hopper.plain_product if interpret else hopper.product, zero_s)
    product = maths.product

    batch, b, head, block, first, count = hopper.place(N, P)
    columns = pl.ds(block * BLOCK, BLOCK)
    # What is beyond the array's end arrives as 0.
    channels = [pl.ds(block * 0 + c * BLOCK, BLOCK) for c in range(blocks)]

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
        for ref, buffer in ((q_ref, q_copied), (k_ref, k_copied), (g_ref, g_s)):
          if ref is not None:
            here = ref.at[b, rows, head, channels[c]]
            plgpu.copy_gmem_to_smem(here, buffer.at[slot], arrived.at[slot])

    def fetch_v(step):
      @pl.when(step < count)
      def _():
        n, rows = place(step)
        here = v_ref.at[b, rows, head, columns]
        plgpu.copy_gmem_to_smem(here, v_copied, v_arrived)
        if reads:
          plgpu.copy_gmem_to_smem(scores_ref.at[b, head, n], A_s, v_arrived)

    for c in range(STAGES):
      fetch(0, c)
    fetch_v(0)

    def chunk(step, carry):
      states, totals = list(carry[0]), list(carry[1])
      n, rows = place(step)
      documents = Documents(docs_ref.at[b, n], reverse)
      o = None
      for c in range(blocks):
        slot = slot_of(step, c)
        plgpu.barrier_wait(arrived.at[slot])
        gates = maths.gates(g_s.at[slot])
        gates_s[...] = gates
        total = total_of(gates) + documents.none()
        totals[c] += total
        if reads:
          plgpu.wait_smem_to_gmem(0, wait_read_only=True)
          out_s[...] = states[c].astype(bf16)
        states[c] *= hopper.along_cols(jnp.exp2(total), BLOCK)
        plgpu.commit_smem()
        if keep:
          to = kept_ref.at[b, head, n, columns, channels[c]]
          plgpu.copy_smem_to_gmem(out_copied, to)
        if reads:
          near = wide(q_s.at[slot]) * jnp.exp2(maths.outward(gates_s, reverse))
          o = product(near.astype(bf16), out_s.T, o)
        far = wide(k_s.at[slot]) * jnp.exp2(maths.outward(gates_s, not reverse))
        far *= hopper.along_rows(documents.write(), BLOCK)
        work_s[...] = far.astype(bf16)
        plgpu.commit_smem()
        fetch(step, c + STAGES)
        if c == 0:
          plgpu.barrier_wait(v_arrived)
        states[c] = product(v_s.T, work_s, states[c])

      if reads:
        o *= hopper.along_rows(documents.read(), BLOCK)
        o = product(A_s.T if reverse else A_s, v_s, o) * scale
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        out_s[...] = o.astype(bf16)
      plgpu.commit_smem()  # Also waits until no warp needs the values any more.
      fetch_v(step + 1)
      if reads:
        plgpu.copy_smem_to_gmem(out_copied, o_ref.at[b, rows, head, columns])
      return tuple(states), tuple(totals)

    states = [hopper.zeros((BLOCK, BLOCK))] * blocks
    if state is not None:
      before = state_ref.at[batch, head, columns]
      states = [load(before.at[:, at]) for at in channels]
    totals = [hopper.zeros((BLOCK,), hopper.COLS)] * blocks
    carry = (tuple(states), tuple(totals))
    states, totals = jax.lax.fori_loop(0, count, chunk, carry)
    for c, at in enumerate(channels):
      last_ref.at[batch, head, columns, at][...] = states[c]
      if not reads:
        totals_ref.at[batch, head, at][...] = totals[c]
    plgpu.wait_smem_to_gmem(0)

  of_keys = tokens.buffer(STAGES, CHUNK, BLOCK)
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
      hopper.tiles((STAGES, CHUNK, BLOCK), f32),
      hopper.tiles((CHUNK, CHUNK), bf16) if reads else None,
      hopper.tiles((CHUNK, BLOCK), jnp.float16),
      hopper.tiles((CHUNK, BLOCK), bf16),
      plgpu.SMEM((CHUNK,), jnp.int32),
      plgpu.Barrier(num_arrivals=3 if reads else 2, num_barriers=STAGES),
      plgpu.Barrier(num_arrivals=2 if reads else 1),
      of_keys if reads else None,
      of_keys,
      tokens.buffer(CHUNK, BLOCK),
      tokens.buffer(CHUNK, BLOCK) if reads else None,
    ],
    compiler_params=plgpu.CompilerParams(approx_math=True),
    kernel_name=f"diagonal_decay_{'scan' if reads else 'ends'}",
    interpret=interpret or None,
  )
  return run(*(x for x in (q, k, v, g, docs, state, scores) if x is not None))


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
    dq and dk in bfloat16 and dg in float32, as q, k and g.
  """
  B, T, H, K = q.shape
  N, depth = docs.shape[1], up(v.shape[-1], BLOCK)
  blocks = -(-K // BLOCK)
  bf16, f32 = jnp.bfloat16, jnp.float32
  tokens = hopper.Tokens(q, k, v, depth=depth, interpret=interpret)

  def program(*refs):
    q_ref, k_ref, v_ref, do_ref, g_ref, docs_ref, before_ref, after_ref = refs[:8]
    dq_ref, dk_ref, dg_ref = refs[8:11]
    named, copied = tokens.names(*refs[11:15])
    (q_s, k_s, *values_s), (q_copied, k_copied, v_copied, do_copied) = named, copied
    g_s, before_s, after_s, gates_s, zero_s, *arrived = refs[15:]
    maths = Maths(hopper.plain_product if interpret else hopper.product, zero_s)
    product = maths.product
    batch, head = jax.lax.axis_index("batch"), jax.lax.axis_index("head")
    block = jax.lax.axis_index("block")
    b, n = jax.lax.div(batch, N), jax.lax.rem(batch, N)
    rows, channels = pl.ds(n * CHUNK, CHUNK), pl.ds(block * BLOCK, BLOCK)
    for ref, to in ((g_ref, g_s), (q_ref, q_copied), (k_ref, k_copied)):
      plgpu.copy_gmem_to_smem(ref.at[b, rows, head, channels], to, arrived[0])
    for ref, to in ((v_ref, v_copied), (do_ref, do_copied)):
      tokens.fetch(ref.at[b, rows, head], to, 0, arrived[1])
    for ref, to in ((before_ref, before_s), (after_ref, after_s)):
      here = ref.at[b, head, n, :, channels]
      plgpu.copy_gmem_to_smem(here, to.at[pl.ds(0, depth)], arrived[2])
    v, do = (tokens.at(x, 0) for x in values_s)
    forwards, backwards = (Documents(docs_ref.at[b, n], way) for way in (False, True))

    plgpu.barrier_wait(arrived[0])
    gates = maths.gates(g_s)
    total = jnp.exp2(total_of(gates) + forwards.none())
    gates_s[...] = gates
    plgpu.commit_smem()
    sizes = maths.sizes(gates_s)
    q, k = lambda: wide(q_s), lambda: wide(k_s)

    plgpu.barrier_wait(arrived[2])
    z = 0.0
    for d in range(depth // BLOCK):
      part = pl.ds(d * BLOCK, BLOCK)
      z += wide(before_s.at[part]) * wide(after_s.at[part])
    z = hopper.sum_of_cols(z) * total

    plgpu.barrier_wait(arrived[1])
    dq, dk = (
      product(x, [states.at[at] for at in tokens.parts])
      for x, states in ((do, before_s), (v, after_s))
    )
    # Where the states were is now room for others.
    (P_s, qs), (Pt_s, ks) = (
      (x.at[pl.ds(0, CHUNK)], x.at[pl.ds(CHUNK, CHUNK)]) for x in (before_s, after_s)
    )

    dq *= jnp.exp2(maths.outward(gates_s, False))
    dq *= hopper.along_rows(forwards.read(), BLOCK)
    dg = hopper.along_cols(z, CHUNK)
    dg = maths.to_gates(dg, q() * dq, (maths.rows, CHUNK), qs)
    dk *= jnp.exp2(maths.outward(gates_s, True))
    dk *= hopper.along_rows(backwards.read(), BLOCK)
    dg = maths.to_gates(dg, k() * dk, (0, maths.rows), qs)

    # Scores of outputs' gradients and values, and transposed: two halves of each, the
    # second where the values were.
    turned = lambda x: [part.T for part in x]
    P = jnp.where(forwards.same(), product(do, turned(v)), 0.0)
    P_self = hopper.along_rows(hopper.sum_of_rows(maths.diagonal(P)), BLOCK)
    dq += P_self * k()
    dk += P_self * q()
    P_s[...], P_rest = hopper.halves(P, bf16)
    Pt = jnp.where(forwards.same(), product(v, turned(do)), 0.0)
    Pt_s[...], Pt_rest = hopper.halves(Pt, bf16)
    rest_s, rest_t_s = (x[0].at[:, pl.ds(0, CHUNK)] for x in (v, do))
    rest_s[...], rest_t_s[...] = P_rest, Pt_rest
    plgpu.commit_smem()

    def times(pairs, stretch, x):
      """One after the other, which takes fewer registers."""
      here = None
      for half in pairs:
        here = product(inside(stretch, load(half)), x, here)
      return here

    def add(half, carry):
      dq, dk, dg = carry
      X, Y = maths.shares(half, gates_s)
      qs[...] = (q() * X).astype(bf16)
      ks[...] = (k() * Y).astype(bf16)
      plgpu.commit_smem()
      dq_here = times([P_s, rest_s], earlier(maths.rows, half), ks)
      dk_here = times([Pt_s, rest_t_s], later(maths.rows, half), qs)
      dq += dq_here * X
      dk += dk_here * Y
      y, y_keys = wide(qs) * dq_here, wide(ks) * dk_here
      stretch, sign = around(maths.rows, half)
      y += half.flipped(y_keys)
      # In the last, pairs with no gate between cancel: of the same rounded factors.
      return dq, dk, maths.to_gates(dg, y, stretch, qs, sign)

    dq, dk, dg = over_halves(sizes, add, (dq, dk, dg))
    q_s[...] = (dq * scale).astype(bf16)
    k_s[...] = (dk * scale).astype(bf16)
    g_s[...] = dg * scale
    plgpu.commit_smem()
    for ref, x in ((dq_ref, q_copied), (dk_ref, k_copied), (dg_ref, g_s)):
      plgpu.copy_smem_to_gmem(x, ref.at[b, rows, head, channels])
    plgpu.wait_smem_to_gmem(0)

  states = hopper.tiles((max(depth, 2 * CHUNK), BLOCK), bf16)
  run = plgpu.kernel(
    program,
    out_type=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, g)],
    grid=(B * N, H, blocks),
    grid_names=("batch", "head", "block"),
    scratch_types=[
      *[tokens.buffer(CHUNK, BLOCK)] * 2,
      *[tokens.deep(1)] * 2,
      hopper.tiles((CHUNK, BLOCK), f32),
      *(states, states, hopper.tiles((CHUNK, BLOCK), jnp.float16)),
      plgpu.SMEM((CHUNK,), jnp.int32),
      *(plgpu.Barrier(num_arrivals=n) for n in (3, 2 * len(tokens.parts), 2)),
    ],
    compiler_params=plgpu.CompilerParams(approx_math=True),
    kernel_name="diagonal_decay_gradients",
    interpret=interpret or None,
  )
  return run(q, k, v, do, g, docs, before, after)
