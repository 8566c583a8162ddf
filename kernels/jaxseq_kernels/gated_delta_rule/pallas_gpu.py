"""GPU scans for Hopper, by Mosaic GPU, for the delta rule with a scalar decay.

Of a chunk of C tokens, with G the sums of log decays from its start, s the scale, S the
state before it and D_ij = exp2(G_i - G_j) for j <= i,

    y = v - exp2(G) k S                 the values, less what is known of them
    w = (I + T) y                       less what the chunk itself has stored
    o = s exp2(G) q S + P n             n = beta w, P = s (q k^T * D)
    S' = exp2(G_C) S + (exp2(G_C - G) k)^T n

where I + T is the inverse of I + M, M = beta_j (k k^T * D)_ij for j < i. First
`inverses` finds all T, float16: for keys of length 1 at most and beta <= 2 no entry
exceeds 2. Then `scan`: a program walks over the chunks of a piece of a head's sequence.
One or two of its warpgroups have in registers the state, transposed, of 64 columns of
the values each, and find w. One more starts the copies of later chunks, finds P, and of
the states and n, which it is given in shared memory, o.

If keys repeat at beta = 2, T alternates between 2 and -2 and nothing that was written
fades: what is rounded away stays, chunk after chunk. So T, y and what is written to S
(and in the gradients to R) are each two halves of 16 bits that add up to it.

Backwards in time, with R the gradient of the state after the chunk,

    dn = P^T do + exp2(G_C - G) k R
    dv = (I + T)^T (beta dn)            dw = dv
    dS = exp2(G_C) R + (s exp2(G) q)^T do - (exp2(G) k)^T dv

which `values` does in the same way, the last warpgroup finding P only, and then `keys`,
a program for 64 columns of the keys, with dv, w and S known:

    dP = do w^T * s D beta_j            dM = -dv w^T * D beta_j,   j < i
    dq = s exp2(G) do S^T + dP k
    dk = -exp2(G) dv S^T + dM k + dP^T q + dM^T k + exp2(G_C - G) n R^T

That of beta_j is dv_j . w_j / beta_j, in which nothing cancels when keys repeat; but
where beta_j is so small that T loses what it has of it, what comes to k_j from later
tokens, times k_j / beta_j. That of g_t is a sum of such products too: what passes from
before t to t or after it. All within a chunk: what passes it wholly is exp2(G_C)
<S, R>, so that no small difference of large sums is ever taken.
"""

import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxseq_kernels import hopper, hopper_triangular
from jaxseq_kernels.matrix_states import CHUNK, not_zero, up

__all__ = ["BLOCK", "inverses", "keys", "maps", "scan", "values"]

BLOCK = 64  # Columns of the values, or of the keys, that a warpgroup has.
SMALL = 2.0**-6  # Of beta: times what may be little, it leaves the range of float16.

bf16, f16, f32 = jnp.bfloat16, jnp.float16, jnp.float32


def inverses(k, g, beta, *, interpret=False):
  """T [B, H, N, 2 CHUNK, CHUNK] as halves, and the sums G [B, H, N, CHUNK] of g.

  Args:
    k: [B, T, H, K] bfloat16, K and V multiples of 8.
    g: [B, H, N, CHUNK] float32, binary logarithms of decays, at least -150; 0 for a
      token that is not there. N = ceil(T / CHUNK).
    beta: As g.
  """
  B, length, H, K = k.shape
  N, depth = g.shape[2], up(K, 64)
  product = hopper.plain_product if interpret else hopper.product
  # As many as shared memory has room for; one in the interpreter, for its speed.
  groups = 1 if interpret else 4 if depth <= 128 else 2
  tokens = hopper.Tokens(k, depth=depth, interpret=interpret)
  span = min(N, 32)  # Chunks of a program.

  def program(k_ref, g_ref, beta_ref, T_ref, G_ref, *refs):
    k_s, *refs, ended = refs
    (k_s,), (k_copied,) = tokens.names(k_s)
    group = jax.lax.axis_index("group")
    N_s, T_s, g_s, beta_s, sums, arrived = (x.at[group] for x in refs)
    b, head, part = (jax.lax.axis_index(name) for name in ("batch", "head", "part"))
    first = part * span + group
    left = jnp.minimum(N - part * span, span) - group
    count = jnp.maximum(jax.lax.div(left + groups - 1, groups), 0)

    def fetch(step):
      n, copy = first + step * groups, plgpu.copy_gmem_to_smem
      here = k_ref.at[b, pl.ds(n * CHUNK, CHUNK), head]
      tokens.fetch(here, k_copied, group, arrived)
      copy(g_ref.at[b, head, n], g_s, arrived)
      copy(beta_ref.at[b, head, n], beta_s, arrived)

    pl.when(count > 0)(lambda: fetch(0))
    i, j = hopper.iota((CHUNK, CHUNK), 0), hopper.iota((CHUNK, CHUNK), 1)

    def chunk(step, carry):
      n = first + step * groups
      plgpu.barrier_wait(arrived)
      g = hopper.along_cols(plgpu.load(g_s, layout=hopper.COLS), CHUNK)
      G = hopper.sum_of_rows(jnp.where(i >= j, g, 0.0))
      sums[...] = G
      plgpu.commit_smem()
      G_ref.at[b, head, n][...] = G
      late = hopper.along_cols(plgpu.load(sums, layout=hopper.COLS), CHUNK)
      share = jnp.exp2(jnp.where(j > i, late - hopper.along_rows(G, CHUNK), -jnp.inf))
      # Row j, column i: what token i does not see of what j has written.
      beta = hopper.along_rows(plgpu.load(beta_s, layout=hopper.ROWS), CHUNK)
      k = tokens.at(k_s, group)
      M = product(k, [x.T for x in k]) * share * -beta
      pl.when(step + 1 < count)(lambda: fetch(step + 1))
      plgpu.wait_smem_to_gmem(0, wait_read_only=True)
      if interpret:
        T = hopper_triangular.plain_inverse(M.T)
        T_s[:CHUNK], T_s[CHUNK:] = hopper.halves(T, f16)
      else:
        hopper_triangular.inverse(M, N_s.at[:, pl.ds(0, CHUNK)], T_s)
      plgpu.commit_smem()
      plgpu.copy_smem_to_gmem(T_s, T_ref.at[b, head, n])
      return carry

    jax.lax.fori_loop(0, count, chunk, 0)
    plgpu.wait_smem_to_gmem(0)
    hopper.leave(ended)

  run = plgpu.kernel(
    program,
    out_type=(
      jax.ShapeDtypeStruct((B, H, N, 2 * CHUNK, CHUNK), f16),
      jax.ShapeDtypeStruct((B, H, N, CHUNK), f32),
    ),
    grid=(B, H, -(-N // span)),
    grid_names=("batch", "head", "part"),
    num_threads=groups,
    thread_name="group",
    scratch_types=[
      tokens.deep(groups),
      plgpu.SMEM((groups, CHUNK, hopper_triangular.ROW), f32),
      plgpu.SMEM((groups, 2 * CHUNK, CHUNK), f16),
      *[plgpu.SMEM((groups, CHUNK), f32)] * 3,
      plgpu.Barrier(num_arrivals=len(tokens.parts) + 2, num_barriers=groups),
      plgpu.Barrier(num_arrivals=groups),
    ],
    compiler_params=plgpu.CompilerParams(approx_math=True),
    kernel_name="gated_delta_rule_inverses",
    interpret=interpret or None,
  )
  return run(k, g, beta)


def scan(q, k, v, G, beta, T, state, *, scale, keep=False, interpret=False):
  """Outputs and last states.

  Args:
    q: [B, T, H, K] bfloat16.
    k: [B, T, H, K].
    v: [B, T, H, V].
    G: From `inverses`, as T.
    beta: ...
    T: ...
    state: [B P, H, V', K'] float32 before each of P pieces, V' and K' being V and K
      padded to multiples of 64. Or None, for one piece and zeros.
    scale: Positive.
    keep: Whether to return what the gradients need.

  Returns:
    o [B, T, H, V] bfloat16 and the states after each piece, as those before. Then, if
    kept, w [B, T, H, V] and the states before each chunk [B, H, N, V', K'], bfloat16.
  """
  last, *outs = _walk(q, k, v, G, beta, T, state, 1, scale, keep, interpret)
  return outs[0], last, *outs[1:]


def maps(k, v, G, beta, T, *, pieces, interpret=False):
  """What several pieces make of a state: S' = M S + W.

  Returns:
    W [B, P, H, V', K'] and M [B, P, H, K', K'], both transposed.
  """
  ended = hopper.with_end(v)
  (last,) = _walk(None, k, ended, G, beta, T, None, pieces, 1, False, interpret)
  last = last.reshape(-1, pieces, *last.shape[1:])
  width, identity = (up(x.shape[-1], 64) for x in (v, ended))
  return last[..., :width, :], last[..., identity:, :]


def _walk(q, k, v, G, beta, T, state, pieces, scale, keep, interpret):
  B, length, H, K = k.shape
  V, N = v.shape[-1], G.shape[2]
  P = pieces if state is None else state.shape[0] // B
  depth, width = up(K, 64), up(V, 64)
  tokens = hopper.Tokens(q, k, v, depth=depth, interpret=interpret)
  parts = tokens.parts
  identity = width  # Where the columns of the identity begin.
  if q is None:
    width += depth
  states, stages = _plan(depth, width)
  product = hopper.plain_product if interpret else hopper.product
  arrays = [y for y in (q, k, v, G, beta, T, state) if y is not None]
  log_scale = math.log2(scale)

  def program(*refs):
    refs = list(refs)
    q_ref = None if q is None else refs.pop(0)
    k_ref, v_ref, G_ref, beta_ref, T_ref = refs[:5]
    del refs[:5]
    state_ref = None if state is None else refs.pop(0)
    last_ref = refs.pop(0)
    o_ref = None if q is None else refs.pop(0)
    w_ref, S_ref = (refs.pop(0), refs.pop(0)) if keep else (None, None)
    names = tokens.names(*refs[:4])
    (q_s, k_s, v_s, o_s), (q_copied, k_copied, v_copied, o_copied) = names
    S_s, n_s, P_s, T_s, G_rows, G_cols, beta_s, *barriers = refs[4:]
    arrived, q_arrived, T_arrived, given, written, done, ended = barriers

    batch, b, head, block, first, count = hopper.place(N, P)
    zero = head * 0  # Where products are added up, JAX fails at an index that it knows.
    columns = lambda c: pl.ds((block * states + c) * BLOCK, BLOCK)
    rows_of = lambda n: pl.ds(n * CHUNK, CHUNK)
    turned = lambda x: [part.T for part in x]
    S_of = lambda c: [S_s.at[c].at[:, at] for at in parts]
    copy = plgpu.copy_gmem_to_smem

    def fetch(step):
      n, slot = first + step, hopper.stage(step, stages)
      here, rows = arrived.at[slot], rows_of(n)
      tokens.fetch(k_ref.at[b, rows, head], k_copied, slot, here)
      for c in range(states):
        to = v_copied.at[slot * states + c]
        copy(v_ref.at[b, rows, head, columns(c)], to, here)
      copy(G_ref.at[b, head, n], G_rows.at[slot], here)
      copy(G_ref.at[b, head, n], G_cols.at[slot], here)
      copy(beta_ref.at[b, head, n], beta_s.at[slot], here)

    def fetch_q(step):
      here, slot = q_ref.at[b, rows_of(first + step), head], hopper.stage(step, stages)
      tokens.fetch(here, q_copied, slot, q_arrived.at[slot])

    def fetch_T(step):
      copy(T_ref.at[b, head, first + step], T_s, T_arrived)

    def of_state(step, S):
      n, slot = first + step, hopper.stage(step, stages)
      S_parts = S_of(group)
      for part, to in zip(S, S_parts):
        to[...] = part.astype(bf16)
      plgpu.commit_smem()
      plgpu.barrier_arrive(given.at[group])
      if keep:
        plgpu.copy_smem_to_gmem(S_s.at[group], S_ref.at[b, head, n, columns(group)])
      plgpu.barrier_wait(arrived.at[slot])
      k, v = tokens.at(k_s, slot), v_s.at[slot * states + group]
      G = plgpu.load(G_cols.at[slot], layout=hopper.COLS)
      total = G_cols[slot, CHUNK - 1]
      y = product(S_parts, turned(k)) * hopper.along_cols(-jnp.exp2(G), BLOCK)
      y += hopper.load(v.T)
      plgpu.barrier_wait(T_arrived)
      w = _solved(product, y, turned(hopper.stacked(T_s)))
      if keep:
        v.T[...] = w.astype(bf16)  # The values are not needed any more.
      w *= hopper.along_cols(plgpu.load(beta_s.at[slot], layout=hopper.COLS), BLOCK)
      if q is not None:
        n_s.at[group][...] = w.astype(bf16)
      plgpu.commit_smem()
      plgpu.barrier_arrive(written.at[group])
      if keep:
        here = w_ref.at[b, rows_of(n), head, columns(group)]
        plgpu.copy_smem_to_gmem(v_copied.at[slot * states + group], here)
      w *= hopper.along_cols(jnp.exp2(total - G), BLOCK)
      kept = hopper.along_rows(_row(jnp.exp2(total)), tokens.width)
      w = [*hopper.halves(w, bf16)]
      S = tuple(product(w, [x] * 2, part * kept) for part, x in zip(S, k))
      plgpu.barrier_wait(done)
      plgpu.wait_smem_to_gmem(0, wait_read_only=True)
      return S

    def after_given(step):
      for c in range(states):
        plgpu.barrier_wait(given.at[c])
      ahead = step - 1 + stages  # All of the chunk before has been used.
      pl.when((step > 0) & (ahead < count))(lambda: fetch(ahead))

    def after_written(step):
      for c in range(states):
        plgpu.barrier_wait(written.at[c])
      pl.when(step + 1 < count)(lambda: fetch_T(step + 1))

    def of_copies(step, carry):
      after_given(step)
      after_written(step)
      plgpu.barrier_arrive(done)
      return carry

    def of_outputs(step, carry):
      n, slot = first + step, hopper.stage(step, stages)
      plgpu.barrier_wait(arrived.at[slot])
      plgpu.barrier_wait(q_arrived.at[slot])
      q, k = tokens.at(q_s, slot), tokens.at(k_s, slot)
      G = plgpu.load(G_cols.at[slot], layout=hopper.COLS)
      G_i = plgpu.load(G_rows.at[slot], layout=hopper.ROWS) + log_scale
      P_s[...] = _scores(product, q, k, G_i, G, i, j)
      plgpu.commit_smem()
      since = hopper.along_cols(jnp.exp2(G + log_scale), BLOCK)
      after_given(step)
      o = [product(S_of(zero + c), turned(q)) * since for c in range(states)]
      pl.when(step + stages < count)(lambda: fetch_q(step + stages))
      after_written(step)
      o = [product(n_s.at[zero + c], P_s.T, x) for c, x in enumerate(o)]
      plgpu.barrier_arrive(done)
      plgpu.wait_smem_to_gmem(0, wait_read_only=True)
      for c, x in enumerate(o):
        o_s.at[zero + c].T[...] = x.astype(bf16)
      plgpu.commit_smem()
      for c in range(states):
        here = o_ref.at[b, rows_of(n), head, columns(c)]
        plgpu.copy_smem_to_gmem(o_copied.at[c], here)
      return carry

    def unit(at):
      row, column = (hopper.iota((BLOCK, at.size), axis) for axis in range(2))
      row += (block * states + group) * BLOCK - identity - at.start
      return jnp.where(row == column, 1.0, 0.0)

    i, j = hopper.iota((CHUNK, CHUNK), 0), hopper.iota((CHUNK, CHUNK), 1)
    group = jax.lax.axis_index("group")

    @pl.when(group < states)
    def _():
      here = batch, head, columns(group)
      S = tuple(map(unit, parts)) if state is None else tokens.load(state_ref.at[here])
      S = jax.lax.fori_loop(0, count, of_state, S)
      tokens.store(S, last_ref.at[here])
      plgpu.wait_smem_to_gmem(0)

    @pl.when(group == states)
    def _():
      for step in range(stages):

        @pl.when(step < count)
        def _(step=step):
          fetch(step)
          if q is not None:
            fetch_q(step)

      pl.when(count > 0)(lambda: fetch_T(0))
      jax.lax.fori_loop(0, count, of_copies if q is None else of_outputs, None)
      plgpu.wait_smem_to_gmem(0)

    hopper.leave(ended)

  outs = [jax.ShapeDtypeStruct((B * P, H, width, depth), f32)]
  if q is not None:
    outs += [jax.ShapeDtypeStruct(v.shape, bf16)]
  if keep:
    outs += [jax.ShapeDtypeStruct(v.shape, bf16)]
    outs += [jax.ShapeDtypeStruct((B, H, N, width, depth), bf16)]
  run = plgpu.kernel(
    program,
    out_type=tuple(outs),
    grid=(B * P, H, width // (states * BLOCK)),
    grid_names=("batch", "head", "block"),
    num_threads=states + 1,
    thread_name="group",
    scratch_types=[
      None if q is None else tokens.deep(stages),
      tokens.deep(stages),
      tokens.buffer(stages * states, CHUNK, BLOCK),
      None if q is None else tokens.buffer(states, CHUNK, BLOCK),
      hopper.tiles((states, BLOCK, depth), bf16),
      None if q is None else hopper.tiles((states, BLOCK, CHUNK), bf16),
      None if q is None else hopper.tiles((CHUNK, CHUNK), bf16),
      hopper.tiles((2 * CHUNK, CHUNK), f16),
      *[plgpu.SMEM((stages, CHUNK), f32)] * 3,
      plgpu.Barrier(num_arrivals=len(parts) + states + 3, num_barriers=stages),
      plgpu.Barrier(num_arrivals=len(parts), num_barriers=stages),
      plgpu.Barrier(),
      *[plgpu.Barrier(num_barriers=states)] * 2,
      plgpu.Barrier(),
      plgpu.Barrier(num_arrivals=states + 1),
    ],
    compiler_params=plgpu.CompilerParams(approx_math=True),
    kernel_name="gated_delta_rule_" + ("scan" if q is not None else "ends"),
    interpret=interpret or None,
  )
  return run(*arrays)


def _plan(depth: int, width: int) -> tuple[int, int]:
  """States [64, depth] of a program, one a warpgroup, and chunks it has room for."""
  states = 2 if depth <= 128 and width % (2 * BLOCK) == 0 else 1
  return states, 3 if depth <= 64 else 2


def _scores(product, q, k, G_i, G_j, i, j):
  """P, the scale being in G_i; i and j are the tokens of its rows and columns."""
  share = hopper.along_rows(G_i, CHUNK) - hopper.along_cols(G_j, CHUNK)
  share = jnp.exp2(jnp.where(i >= j, share, -jnp.inf))
  return (product(q, [part.T for part in k]) * share).astype(bf16)


def _row(x):
  """The same number for each row of a block."""
  return plgpu.layout_cast(jax.lax.broadcast_in_dim(x, (BLOCK,), ()), hopper.ROWS)


def values(q, k, do, G, beta, T, state=None, *, scale, pieces=None, interpret=False):
  """dv, and the gradients of the states before each piece.

  Args:
    q: As k, G, beta, T and scale, of `scan`.
    k: ...
    do: [B, T, H, V].
    G: ...
    beta: ...
    T: ...
    state: Gradients of the states after each piece, or None for zeros.
    scale: ...
    pieces: If given, that many begin with zeros, and there is no dv.

  Returns:
    The states, [B P, H, V', K'] float32; dv as v.
  """
  B, length, H, K = k.shape
  V, N = do.shape[-1], G.shape[2]
  ends = pieces is not None
  P = pieces or (1 if state is None else state.shape[0] // B)
  depth, width = up(K, 64), up(V, 64)
  states, stages = _plan(depth, width)
  product = hopper.plain_product if interpret else hopper.product
  arrays = [y for y in (q, k, do, G, beta, T, state) if y is not None]
  tokens = hopper.Tokens(q, k, do, depth=depth, interpret=interpret)
  parts = tokens.parts
  log_scale = math.log2(scale)

  def program(*refs):
    refs = list(refs)
    q_ref, k_ref, do_ref, G_ref, beta_ref, T_ref = refs[:6]
    del refs[:6]
    state_ref = None if state is None else refs.pop(0)
    first_ref = refs.pop(0)
    dv_ref = None if ends else refs.pop(0)
    names = tokens.names(*refs[:4])
    (q_s, k_s, do_s, dv_s), (q_copied, k_copied, do_copied, dv_copied) = names
    P_s, T_s, G_rows, G_cols, beta_s, arrived, given, done, ended = refs[4:]

    batch, b, head, block, first, count = hopper.place(N, P)
    columns = lambda c: pl.ds((block * states + c) * BLOCK, BLOCK)
    rows_of = lambda n: pl.ds(n * CHUNK, CHUNK)

    def fetch(step):
      n, slot = first + count - 1 - step, hopper.stage(step, stages)
      here, rows = arrived.at[slot], rows_of(n)
      copy = plgpu.copy_gmem_to_smem
      tokens.fetch(q_ref.at[b, rows, head], q_copied, slot, here)
      tokens.fetch(k_ref.at[b, rows, head], k_copied, slot, here)
      for c in range(states):
        to = do_copied.at[slot * states + c]
        copy(do_ref.at[b, rows, head, columns(c)], to, here)
      copy(T_ref.at[b, head, n], T_s.at[slot], here)
      copy(G_ref.at[b, head, n], G_rows.at[slot], here)
      copy(G_ref.at[b, head, n], G_cols.at[slot], here)
      copy(beta_ref.at[b, head, n], beta_s.at[slot], here)

    def of_state(step, R):
      n, slot = first + count - 1 - step, hopper.stage(step, stages)
      plgpu.barrier_wait(arrived.at[slot])
      q, k = tokens.at(q_s, slot), tokens.at(k_s, slot)
      G = plgpu.load(G_cols.at[slot], layout=hopper.COLS)
      total = G_cols[slot, CHUNK - 1]
      dn = product([part.astype(bf16) for part in R], [part.T for part in k])
      dn *= hopper.along_cols(jnp.exp2(total - G), BLOCK)
      do = plgpu.load(do_s.at[slot * states + group].T, layout=hopper.TILE)
      plgpu.barrier_wait(given)
      dn = product(do, P_s, dn)
      plgpu.barrier_arrive(done)
      dn *= hopper.along_cols(plgpu.load(beta_s.at[slot], layout=hopper.COLS), BLOCK)
      T = hopper.stacked(T_s.at[slot])
      dv = _solved(product, dn, [*T, T[0]])
      if not ends:
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        dv_s.at[group].T[...] = dv.astype(bf16)
        plgpu.commit_smem()
        here = dv_ref.at[b, rows_of(n), head, columns(group)]
        plgpu.copy_smem_to_gmem(dv_copied.at[group], here)
      kept = hopper.along_rows(_row(jnp.exp2(total)), tokens.width)
      do = do.astype(f32) * hopper.along_cols(jnp.exp2(G + log_scale), BLOCK)
      do = do.astype(bf16)
      R = [product(do, x, part * kept) for part, x in zip(R, q)]
      dv *= hopper.along_cols(-jnp.exp2(G), BLOCK)
      dv = [*hopper.halves(dv, bf16)]
      R = tuple(product(dv, [x] * 2, part) for part, x in zip(R, k))
      return R

    def of_scores(step, carry):
      slot = hopper.stage(step, stages)
      plgpu.barrier_wait(arrived.at[slot])
      q, k = tokens.at(q_s, slot), tokens.at(k_s, slot)
      G = plgpu.load(G_cols.at[slot], layout=hopper.COLS)
      G_i = plgpu.load(G_rows.at[slot], layout=hopper.ROWS) + log_scale
      P_s[...] = _scores(product, q, k, G_i, G, i, j)
      plgpu.commit_smem()
      plgpu.barrier_arrive(given)
      plgpu.barrier_wait(done)
      ahead = step - 1 + stages  # All of the chunk before has been used.
      pl.when((step > 0) & (ahead < count))(lambda: fetch(ahead))
      return carry

    i, j = hopper.iota((CHUNK, CHUNK), 0), hopper.iota((CHUNK, CHUNK), 1)
    group = jax.lax.axis_index("group")

    @pl.when(group < states)
    def _():
      here = batch, head, columns(group)
      R = tokens.load(None if state is None else state_ref.at[here])
      R = jax.lax.fori_loop(0, count, of_state, R)
      tokens.store(R, first_ref.at[here])
      plgpu.wait_smem_to_gmem(0)

    @pl.when(group == states)
    def _():
      for step in range(stages):
        pl.when(step < count)(lambda step=step: fetch(step))
      jax.lax.fori_loop(0, count, of_scores, None)

    hopper.leave(ended)

  outs = [jax.ShapeDtypeStruct((B * P, H, width, depth), f32)]
  if not ends:
    outs += [jax.ShapeDtypeStruct(do.shape, bf16)]
  run = plgpu.kernel(
    program,
    out_type=tuple(outs),
    grid=(B * P, H, width // (states * BLOCK)),
    grid_names=("batch", "head", "block"),
    num_threads=states + 1,
    thread_name="group",
    scratch_types=[
      tokens.deep(stages),
      tokens.deep(stages),
      tokens.buffer(stages * states, CHUNK, BLOCK),
      None if ends else tokens.buffer(states, CHUNK, BLOCK),
      hopper.tiles((CHUNK, CHUNK), bf16),
      hopper.tiles((stages, 2 * CHUNK, CHUNK), f16),
      *[plgpu.SMEM((stages, CHUNK), f32)] * 3,
      plgpu.Barrier(num_arrivals=2 * len(parts) + states + 4, num_barriers=stages),
      plgpu.Barrier(),
      plgpu.Barrier(num_arrivals=states),
      plgpu.Barrier(num_arrivals=states + 1),
    ],
    compiler_params=plgpu.CompilerParams(approx_math=True),
    kernel_name="gated_delta_rule_" + ("values_ends" if ends else "values"),
    interpret=interpret or None,
  )
  return run(*arrays)


def keys(q, k, do, dv, w, G, beta, S, state, *, scale, interpret=False):
  """dq, dk, and dg and dbeta by blocks of K, [B, H, K' / 64, N, CHUNK].

  Of the two warpgroups of a program the first keeps R and finds dq, the second dk. It
  waits for R, dP and sums of the first, and the first for it to be done with a chunk.

  Args:
    q: As k, do, G, beta and scale, of `values`.
    k: ...
    do: ...
    dv: From `values`.
    w: From `scan`, as S.
    G: ...
    beta: ...
    S: ...
    state: [B P, H, K', V'] float32, gradients of the states after each piece.
    scale: ...
  """
  B, length, H, K = k.shape
  V, N = do.shape[-1], G.shape[2]
  P = 1 if state is None else state.shape[0] // B
  depth, blocks = up(V, 64), up(K, 64) // BLOCK
  product = hopper.plain_product if interpret else hopper.product
  arrays = [y for y in (q, k, do, dv, w, G, beta, S, state) if y is not None]
  tokens = hopper.Tokens(q, k, do, depth=depth, interpret=interpret)
  parts, stages = tokens.parts, 2 if depth <= 128 else 1
  log_scale = math.log2(scale)

  def program(*refs):
    refs = list(refs)
    q_ref, k_ref, do_ref, dv_ref, w_ref, G_ref, beta_ref, S_ref = refs[:8]
    del refs[:8]
    state_ref = None if state is None else refs.pop(0)
    dq_ref, dk_ref, dg_ref, dbeta_ref = refs[:4]
    named, copied = tokens.names(*refs[4:11])
    q_s, k_s, do_s, dv_s, w_s, dq_s, dk_s = named
    q_copied, k_copied, do_copied, dv_copied, w_copied, dq_copied, dk_copied = copied
    S_s, R_s, P_s, M_s, sums, G_rows, G_cols, beta_rows, beta_cols = refs[11:20]
    arrived, values_arrived, w_arrived, S_arrived, *events = refs[20:]
    given, summed, done, ended = events

    batch, b, head, block, first, count = hopper.place(N, P)
    columns = pl.ds(block * BLOCK, BLOCK)
    part = lambda c: pl.ds(c * BLOCK, BLOCK)
    place = lambda step: first + count - 1 - step
    rows_of = lambda n: pl.ds(n * CHUNK, CHUNK)
    copy = plgpu.copy_gmem_to_smem

    def fetch_keys(step):
      n, slot = place(step), hopper.stage(step, stages)
      here = arrived.at[slot]
      copy(q_ref.at[b, rows_of(n), head, columns], q_copied.at[slot], here)
      copy(k_ref.at[b, rows_of(n), head, columns], k_copied.at[slot], here)
      copy(G_ref.at[b, head, n], G_rows.at[slot], here)
      copy(G_ref.at[b, head, n], G_cols.at[slot], here)
      copy(beta_ref.at[b, head, n], beta_rows.at[slot], here)
      copy(beta_ref.at[b, head, n], beta_cols.at[slot], here)

    def fetch_values(step):
      rows, slot = rows_of(place(step)), hopper.stage(step, stages)
      here = values_arrived.at[slot]
      tokens.fetch(do_ref.at[b, rows, head], do_copied, slot, here)
      tokens.fetch(dv_ref.at[b, rows, head], dv_copied, slot, here)

    def fetch_w(step):
      rows, slot = rows_of(place(step)), hopper.stage(step, stages)
      tokens.fetch(w_ref.at[b, rows, head], w_copied, slot, w_arrived.at[slot])

    def fetch_S(step):
      slot = hopper.stage(step, stages)
      here = S_ref.at[b, head, place(step), :, columns]
      copy(here, S_s.at[slot], S_arrived.at[slot])

    i, j = hopper.iota((CHUNK, CHUNK), 0), hopper.iota((CHUNK, CHUNK), 1)
    blocks_of = lambda x: range(0, x.shape[1], BLOCK)

    def of_queries(step, R):
      n, slot = place(step), hopper.stage(step, stages)
      plgpu.barrier_wait(arrived.at[slot])
      do, dv, w = (tokens.at(x, slot) for x in (do_s, dv_s, w_s))
      q, k, S = (x.at[slot] for x in (q_s, k_s, S_s))
      G_i = plgpu.load(G_rows.at[slot], layout=hopper.ROWS)
      G_j = plgpu.load(G_cols.at[slot], layout=hopper.COLS)
      beta_j = not_zero(plgpu.load(beta_cols.at[slot], layout=hopper.COLS))
      total = G_cols[slot, CHUNK - 1]
      plgpu.barrier_wait(S_arrived.at[slot])
      z = hopper.zeros((BLOCK,), hopper.ROWS)
      R_blocks = [x[:, at : at + BLOCK] for x in R for at in blocks_of(x)]
      for c, R_c in enumerate(R_blocks):
        R_s.at[part(c)][...] = R_c.astype(bf16)
        z += hopper.sum_of_rows(R_c * hopper.load(S.at[part(c)].T))
      plgpu.barrier_wait(w_arrived.at[slot])
      plgpu.barrier_wait(values_arrived.at[slot])
      share = hopper.along_rows(G_i + log_scale, CHUNK) - hopper.along_cols(G_j, CHUNK)
      share = jnp.exp2(jnp.where(i >= j, share, -jnp.inf))
      dP = product(do, [x.T for x in w]) * share * hopper.along_cols(beta_j, CHUNK)
      P_s[...] = dP.astype(bf16)
      sums[0] = z * jnp.exp2(total)
      plgpu.commit_smem()
      plgpu.barrier_arrive(given)

      dq = product(do, [S.at[at] for at in parts])
      dq *= hopper.along_rows(jnp.exp2(G_i + log_scale), BLOCK)
      dq = product(P_s, k, dq)
      sums[1] = hopper.sum_of_rows(dq * hopper.load(q))
      plgpu.barrier_arrive(summed)
      plgpu.wait_smem_to_gmem(0, wait_read_only=True)
      dq_s[...] = dq.astype(bf16)
      plgpu.commit_smem()
      plgpu.copy_smem_to_gmem(dq_copied, dq_ref.at[b, rows_of(n), head, columns])

      kept = hopper.along_rows(_row(jnp.exp2(total)), tokens.width)
      since = hopper.along_cols(jnp.exp2(G_j + log_scale), BLOCK)
      q = (hopper.load(q.T) * since).astype(bf16)
      R = [product(q, x, part * kept) for part, x in zip(R, do)]
      since = hopper.along_cols(-jnp.exp2(G_j), BLOCK)
      k = (hopper.load(k.T) * since).astype(bf16)
      R = tuple(product(k, x, part) for part, x in zip(R, dv))
      plgpu.barrier_wait(done)

      @pl.when(step + stages < count)
      def _():
        fetch_keys(step + stages)
        fetch_values(step + stages)

      return R

    def of_keys(step, carry):
      n, slot, more = place(step), hopper.stage(step, stages), step + stages < count
      plgpu.barrier_wait(arrived.at[slot])
      dv, w = (tokens.at(x, slot) for x in (dv_s, w_s))
      k, S = (x.at[slot] for x in (k_s, S_s))
      G_i = plgpu.load(G_rows.at[slot], layout=hopper.ROWS)
      G_j = plgpu.load(G_cols.at[slot], layout=hopper.COLS)
      beta_i = not_zero(plgpu.load(beta_rows.at[slot], layout=hopper.ROWS))
      beta_j = not_zero(plgpu.load(beta_cols.at[slot], layout=hopper.COLS))
      total = G_cols[slot, CHUNK - 1]
      M_high, M_low = hopper.stacked(M_s)

      # What its tokens read of each other.
      plgpu.barrier_wait(w_arrived.at[slot])
      plgpu.barrier_wait(values_arrived.at[slot])
      dM = product(dv, [x.T for x in w])
      own = hopper.sum_of_rows(jnp.where(i == j, dM, 0.0))
      share = hopper.along_rows(G_i, CHUNK) - hopper.along_cols(G_j, CHUNK)
      share = jnp.exp2(jnp.where(i > j, share, -jnp.inf))
      dM *= share * hopper.along_cols(-beta_j, CHUNK)
      # In two parts: all but nothing may be left of its sums, if keys repeat.
      M_high[...], M_low[...] = hopper.halves(dM, bf16)
      plgpu.commit_smem()

      # What is read after the chunk of what it writes.
      plgpu.barrier_wait(given)
      dk = None
      w_blocks = [x.at[:, pl.ds(at, BLOCK)] for x in w for at in blocks_of(x)]
      for c, w_c in enumerate(w_blocks):
        dk = product(w_c, R_s.at[part(c)].T, dk)
      pl.when(more)(lambda: fetch_w(step + stages))
      dk *= hopper.along_rows(beta_i * jnp.exp2(total - G_i), BLOCK)
      written = hopper.sum_of_rows(dk * hopper.load(k))

      late = product([P_s.T, M_high.T, M_low.T], [q_s.at[slot], k, k])
      passed = hopper.sum_of_rows(late * hopper.load(k))
      # Of blocks that are summed; `own` is of all channels.
      dbeta = jnp.where(jnp.abs(beta_i) < SMALL, written + passed, own / blocks)
      dbeta_ref.at[b, head, block, n][...] = dbeta / beta_i
      dk += late

      # And of the state before.
      reads = product(dv, [S.at[at] for at in parts])
      reads *= hopper.along_rows(-jnp.exp2(G_i), BLOCK)
      reads = product([M_high, M_low], [k, k], reads)
      read = hopper.sum_of_rows(reads * hopper.load(k)) - passed
      plgpu.barrier_wait(summed)
      z, dq_q = (plgpu.load(sums.at[c], layout=hopper.ROWS) for c in range(2))
      plgpu.barrier_arrive(done)
      pl.when(more)(lambda: fetch_S(step + stages))
      plgpu.wait_smem_to_gmem(0, wait_read_only=True)
      dk_s[...] = (dk + reads).astype(bf16)
      plgpu.commit_smem()
      plgpu.copy_smem_to_gmem(dk_copied, dk_ref.at[b, rows_of(n), head, columns])

      dg = hopper.along_rows(written, CHUNK)
      dg = jnp.where(i >= j, hopper.along_rows(read + dq_q, CHUNK), dg)
      dg += hopper.along_rows(z, CHUNK)
      dg_ref.at[b, head, block, n][...] = hopper.sum_of_cols(dg)
      return carry

    group = jax.lax.axis_index("group")

    @pl.when(group == 0)
    def _():
      for step in range(stages):

        @pl.when(step < count)
        def _(step=step):
          for fetch in (fetch_keys, fetch_values, fetch_w, fetch_S):
            fetch(step)

      R = tokens.load(None if state is None else state_ref.at[batch, head, columns])
      jax.lax.fori_loop(0, count, of_queries, R)
      plgpu.wait_smem_to_gmem(0)

    @pl.when(group == 1)
    def _():
      jax.lax.fori_loop(0, count, of_keys, None)
      plgpu.wait_smem_to_gmem(0)

    hopper.leave(ended)

  by_token = jax.ShapeDtypeStruct((B, H, blocks, N, CHUNK), f32)
  run = plgpu.kernel(
    program,
    out_type=(
      jax.ShapeDtypeStruct(k.shape, bf16),
      jax.ShapeDtypeStruct(k.shape, bf16),
      by_token,
      by_token,
    ),
    grid=(B * P, H, blocks),
    grid_names=("batch", "head", "block"),
    num_threads=2,
    thread_name="group",
    scratch_types=[
      *[tokens.buffer(stages, CHUNK, BLOCK)] * 2,
      *[tokens.deep(stages)] * 3,
      *[tokens.buffer(CHUNK, BLOCK)] * 2,
      hopper.tiles((stages, depth, BLOCK), bf16),
      hopper.tiles((depth, BLOCK), bf16),
      hopper.tiles((CHUNK, CHUNK), bf16),
      hopper.tiles((2 * CHUNK, CHUNK), bf16),
      plgpu.SMEM((2, BLOCK), f32),
      *[plgpu.SMEM((stages, CHUNK), f32)] * 4,
      plgpu.Barrier(num_arrivals=6, num_barriers=stages),
      plgpu.Barrier(num_arrivals=2 * len(parts), num_barriers=stages),
      plgpu.Barrier(num_arrivals=len(parts), num_barriers=stages),
      plgpu.Barrier(num_barriers=stages),
      *[plgpu.Barrier()] * 3,
      plgpu.Barrier(num_arrivals=2),
    ],
    compiler_params=plgpu.CompilerParams(approx_math=True),
    kernel_name="gated_delta_rule_keys",
    interpret=interpret or None,
  )
  return run(*arrays)


def _solved(product, x, T):
  """x + x T. Both are halves in float16, each row of x scaled to less than 2.

  T is its halves, for the high half of x, and if the low half counts, what that is
  multiplied with.
  """
  largest = plgpu.layout_cast(jnp.max(jnp.abs(x), axis=1), hopper.ROWS)
  # By powers of 2, which loses nothing.
  power = jax.lax.bitcast_convert_type(jnp.maximum(largest, 1e-30), jnp.int32)
  power &= 0x7F800000
  scaled = lambda x, bits: (
    x * hopper.along_rows(jax.lax.bitcast_convert_type(bits, f32), x.shape[1])
  )
  x = scaled(x, 0x7F000000 - power)
  high, low = hopper.halves(x, f16)
  return scaled(product([high, high, low][: len(T)], T, x), power)
