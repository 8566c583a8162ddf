"""GPU scans for Hopper, by Mosaic GPU. Grid [B P, H, V / 64].

    o_i = s exp2(G_i) S^T q_i + sum_{j <= i} s exp2(G_i - G_j) (q_i . k_j) v_j
    S'  = exp2(G_C) S + sum_j exp2(G_C - G_j) k_j v_j^T

for each chunk of C tokens, G the sums of log decays from its start and s the scale. A
program, one warpgroup, walks over the chunks of a piece of a head's sequence, for 64
columns of the values. It keeps the state, transposed, in registers; the copies of later
chunks are under way while it works on one. Each of q, k, v and o moves once: that the
programs of a head read the same q and k, the cache serves.

The gradients are scans of the same kind (`vjp` says which), forwards for dq and
backwards in time for dk and dv. Those for dq and dk also collect, chunk by chunk, the
gradient of the log decays,

    dg_t = sum over i >= t > j of M_ij,   M_ij = q_i . (what dq_i has from token j),

where i or j may lie outside of the chunk. Of what the chunk's own pairs have, the sums
over j (rows) and over i (columns) are known: those over i >= t less those over j >= t
leave i >= t > j. With j before the chunk it is the sum of a_i = q_i . dq_i over i >= t;
with i after it, of b_j = k_j . dk_j over j < t; with both outside it is z = exp2(G_C)
<S, dS'>, the same for all t. The scan for dq leaves S at every `ANCHOR`-th chunk, so
that z is known there, and z before it is z + sum a - sum of the b before: sums over a
few chunks only, so that no small difference of large sums is ever taken.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxseq_kernels import hopper
from jaxseq_kernels.matrix_states import CHUNK, up

__all__ = ["BLOCK", "ends", "keys", "queries", "scan"]

BLOCK = 64  # Columns of the values that a program has.
ANCHOR = 2  # Chunks from one state that is kept to the next.


def scan(q, k, v, g, state, *, scale, reverse=False, interpret=False):
  """Outputs and last states.

  Args:
    q: [B, T, H, K] bfloat16, K and V multiples of 8.
    k: [B, T, H, K].
    v: [B, T, H, V].
    g: [B, H, N, CHUNK] float32, binary logarithms of decays, at least -150. Positive
      for a token that neither reads nor writes. N = ceil(T / CHUNK).
    state: [B P, H, V', K'] float32 before each of P pieces, V' and K' being V and K
      padded to multiples of 64. Or None, for one piece and zeros.
    scale: Positive.
    reverse: From the last token to the first, each reading itself and those after it;
      decay and scale of a pair of tokens are the same as forwards.

  Returns:
    o [B, T, H, V] bfloat16 and the states after each piece, as those before.
  """
  return _walk(q, k, v, g, state, scale, reverse, interpret, "scan")


def ends(k, v, g, *, pieces, scale, reverse=False, interpret=False):
  """The states after each of several pieces that begin with zeros."""
  (last,) = _walk(None, k, v, g, None, scale, reverse, interpret, "ends", pieces=pieces)
  return last


def queries(do, v, k, g, state, q, *, scale, interpret=False):
  """dq by `scan`, and what it knows of dg.

  Returns:
    dq; by token the sum of row M_i, with a_i, [B, H, K' / 64, N, CHUNK]; the states
    [B P, H, A, K', V'] in bfloat16 before every `ANCHOR`-th chunk of a piece, and
    before its last.
  """
  B, T, H, K = q.shape
  P = 1 if state is None else state.shape[0] // B
  N = g.shape[2]
  blocks, depth = pl.cdiv(K, BLOCK), up(v.shape[-1], 64)
  anchors = pl.cdiv(pl.cdiv(N, P), ANCHOR)

  def collect(at, z):
    rows_ref, _ = at.outs
    M = at.product(at.x, at.v.T) * at.scores
    rows = hopper.sum_of_rows(M) + hopper.sum_of_rows(at.o * hopper.load(at.x))
    rows_ref.at[at.chunk][...] = rows
    return z

  outs = (
    jax.ShapeDtypeStruct((B, H, blocks, N, CHUNK), jnp.float32),
    jax.ShapeDtypeStruct((B * P, H, anchors, blocks * BLOCK, depth), jnp.bfloat16),
  )
  options = scale, False, interpret, "queries", q, None, (), outs, collect
  dq, _, rows, kept = _walk(do, v, k, g, state, *options)
  return dq, rows, kept


def keys(v, do, q, g, state, k, rows, anchors, *, scale, interpret=False):
  """dk by `scan` in reverse, and dg by blocks of K, [B, H, K' / 64, N, CHUNK]."""

  def collect(at, z):
    (dg_ref,) = at.outs
    pl.when(at.is_anchor)(lambda: at.fetch_anchor(at.groups[0]))
    M = at.product(at.x, at.v.T) * at.scores  # Transposed.
    b = hopper.sum_of_rows(at.o * hopper.load(at.x))
    turn = lambda x: _turned(x, at.spare)
    z = jax.lax.cond(at.is_anchor, lambda: turn(_anchored(at)), lambda: z - turn(b))
    here = plgpu.load(at.rows, layout=hopper.COLS) - turn(hopper.sum_of_rows(M))
    t, j = hopper.iota((CHUNK, CHUNK), 0), hopper.iota((CHUNK, CHUNK), 1)
    here_and_b = jnp.where(
      j >= t, hopper.along_cols(here, CHUNK), hopper.along_cols(turn(b), CHUNK)
    )
    dg = hopper.sum_of_rows(here_and_b + hopper.along_cols(z, CHUNK))
    dg_ref.at[at.chunk][...] = dg
    # For the chunk before, its own pairs add nothing.
    return plgpu.layout_cast(z + here, hopper.COLS)

  outs = (jax.ShapeDtypeStruct(rows.shape, rows.dtype),)
  options = scale, True, interpret, "keys", k, rows, (anchors,), outs, collect
  dk, _, dg = _walk(v, do, q, g, state, *options)
  return dk, dg


def _turned(x, spare):
  """A number by row as a number by column."""
  spare[...] = x
  plgpu.commit_smem()
  return plgpu.load(spare, layout=hopper.COLS)


def _anchored(at):
  """z = exp2(G_C) <S, dS'> as a sum over rows."""
  z = 0.0
  for group in at.groups:
    if group is not at.groups[0]:
      at.fetch_anchor(group)
    plgpu.barrier_wait(at.kept_arrived)
    for part, state in zip(group, at.state):
      z += hopper.sum_of_rows(at.S[part] * hopper.load(state))
  return z * jnp.exp2(at.total)


class _At(NamedTuple):
  """What a scan shows of a chunk to those that collect something."""

  chunk: Any  # The indices of what is kept by chunk and block of columns.
  is_anchor: Any  # Whether the state before the chunk is kept.
  fetch_anchor: Any  # A group of its parts,
  state: Any  # to these places in shared memory,
  kept_arrived: Any  # where this says when it is there.
  groups: Any
  product: Any
  S: Any  # The state before, [BLOCK, K'], in parts by columns.
  total: Any
  scores: Any
  o: Any  # What is read of the state before.
  v: Any
  x: Any
  rows: Any  # Of `queries`.
  spare: Any  # Room for a number by token.
  outs: Any


def _walk(
  q,
  k,
  v,
  g,
  state,
  scale,
  reverse,
  interpret,
  name,
  x=None,
  rows=None,
  ins=(),
  outs=(),
  collect=None,
  pieces=1,
):
  B, T, H, K = k.shape
  V, N = v.shape[-1], g.shape[2]
  P = pieces if state is None else state.shape[0] // B
  depth, width = up(K, 64), up(V, 64)
  bf16, f32 = jnp.bfloat16, jnp.float32
  product = hopper.plain_product if interpret else hopper.product
  arrays = [y for y in (q, k, v, g, state, x, rows, *ins) if y is not None]
  tokens = hopper.Tokens(q, k, v, x, depth=depth, interpret=interpret)
  parts, groups = tokens.parts, tokens.groups  # Of k and S; q's are of 64 columns.
  together = len(groups[0]) * tokens.width
  q_count = 0 if q is None else depth // 64
  # Nothing is collected in the forward pass: one program a processor is faster there.
  stages = 2 if collect is None or depth <= 128 else 1
  log_scale = math.log2(scale)

  def program(*refs):
    refs = list(refs)
    q_ref = None if q is None else refs.pop(0)
    k_ref, v_ref, g_ref = refs[:3]
    del refs[:3]
    state_ref = None if state is None else refs.pop(0)
    x_ref = None if x is None else refs.pop(0)
    rows_ref = None if rows is None else refs.pop(0)
    in_refs = [refs.pop(0) for _ in ins]
    o_ref = None if q is None else refs.pop(0)
    last_ref = refs.pop(0)
    out_refs = [refs.pop(0) for _ in outs]
    names = tokens.names(*refs[:4])
    (q_s, k_s, v_s, x_s), (q_copied, k_copied, v_copied, x_copied) = names
    g_rows, g_cols, rows_s, state_s, arrived, x_arrived, kept_arrived = refs[4:]

    batch, b, head, block, first, count = hopper.place(N, P)
    columns = pl.ds(block * BLOCK, BLOCK)

    def anchor(ref, local, group):
      """Where a group of the state's parts is kept."""
      here = batch, head, jax.lax.div(local, ANCHOR), columns
      return ref.at[*here, pl.ds(parts[group[0]].start, together)]

    def place(step):
      local = count - 1 - step if reverse else step
      return local, first + local, pl.ds((first + local) * CHUNK, CHUNK)

    def fetch(step):
      _, n, rows = place(step)
      slot = hopper.stage(step, stages)
      here = arrived.at[slot]
      copy = plgpu.copy_gmem_to_smem
      # What is beyond the array's end arrives as 0.
      for part in range(q_count):
        at = pl.ds(block * 0 + part * 64, 64)
        to = q_copied.at[slot * q_count + part]
        copy(q_ref.at[b, rows, head, at], to, here)
      tokens.fetch(k_ref.at[b, rows, head], k_copied, slot, here)
      copy(v_ref.at[b, rows, head, columns], v_copied.at[slot], here)
      copy(g_ref.at[b, head, n], g_rows.at[slot], here)
      copy(g_ref.at[b, head, n], g_cols.at[slot], here)

    def fetch_x(step):
      _, n, rows = place(step)
      here = x_ref.at[b, rows, head, columns]
      plgpu.copy_gmem_to_smem(here, x_copied, x_arrived)
      if rows_ref is not None:
        plgpu.copy_gmem_to_smem(rows_ref.at[b, head, block, n], rows_s, x_arrived)

    for step in range(stages):
      pl.when(step < count)(lambda step=step: fetch(step))
    if x is not None:
      pl.when(count > 0)(lambda: fetch_x(0))

    i, j = hopper.iota((CHUNK, CHUNK), 0), hopper.iota((CHUNK, CHUNK), 1)

    def chunk(step, carry):
      S, z = list(carry[0]), carry[1]
      local, n, rows = place(step)
      slot = hopper.stage(step, stages)
      plgpu.barrier_wait(arrived.at[slot])
      k, v = tokens.at(k_s, slot), v_s.at[slot]
      gates = _gates(g_rows.at[slot], g_cols.at[slot], i, j, log_scale, reverse)

      if q_s is not None:
        q = [q_s.at[slot * q_count + part] for part in range(q_count)]
        cut = lambda y: [y.at[:, pl.ds(at, 64)].T for at in range(0, y.shape[1], 64)]
        state = [state_s.at[:, at] for at in parts[: len(groups[0])]]
        is_anchor = (local == count - 1) | (jax.lax.rem(local, ANCHOR) == ANCHOR - 1)
        o = None
        for group in groups:
          for part, to in zip(group, state):
            to[...] = S[part].astype(bf16)
          plgpu.commit_smem()
          if name == "queries":
            to = anchor(out_refs[1], local, group)
            pl.when(is_anchor)(lambda to=to: plgpu.copy_smem_to_gmem(state_s, to))
          q_here = q[parts[group[0]].start // 64 :][: together // 64]
          o = product(q_here, cut(state_s), o)
          if group is not groups[-1]:
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        scores = product(q, sum(map(cut, k), []))
        share = hopper.along_rows(gates.rows, CHUNK)
        share -= hopper.along_cols(gates.cols, CHUNK)
        seen = (i <= j) if reverse else (i >= j)
        scores *= jnp.exp2(jnp.where(seen, share, -jnp.inf))
        o *= hopper.along_rows(jnp.exp2(gates.rows + gates.shift), BLOCK)
        if collect is not None:
          plgpu.barrier_wait(x_arrived)

          def fetch_anchor(group):
            here = anchor(in_refs[0], local, group)
            plgpu.copy_gmem_to_smem(here, state_s, kept_arrived)

          at = _At(
            chunk=(b, head, block, n),
            is_anchor=is_anchor,
            fetch_anchor=fetch_anchor,
            state=state,
            kept_arrived=kept_arrived,
            groups=groups,
            product=product,
            S=S,
            total=gates.total,
            scores=scores,
            o=o,
            v=v,
            x=x_s,
            rows=rows_s,
            spare=g_cols.at[slot],
            outs=out_refs,
          )
          z = collect(at, z)
          pl.when(step + 1 < count)(lambda: fetch_x(step + 1))
        o = product(scores.astype(bf16), v, o)
        q[0][...] = o.astype(bf16)  # It is not needed any more.
        plgpu.commit_smem()
        here = o_ref.at[b, rows, head, columns]
        plgpu.copy_smem_to_gmem(q_copied.at[slot * q_count], here)

      writes = hopper.load(v.T) * hopper.along_cols(gates.writes, BLOCK)
      for part in range(len(parts)):
        kept = S[part] * hopper.along_rows(jnp.exp2(gates.total), tokens.width)
        S[part] = product(writes.astype(bf16), k[part], kept)
      plgpu.wait_smem_to_gmem(0, wait_read_only=True)
      pl.when(step + stages < count)(lambda: fetch(step + stages))
      return tuple(S), z

    here = batch, head, columns
    S = tokens.load(None if state is None else state_ref.at[here])
    z = hopper.zeros((CHUNK,), hopper.COLS)
    S, _ = jax.lax.fori_loop(0, count, chunk, (S, z))
    tokens.store(S, last_ref.at[here])
    plgpu.wait_smem_to_gmem(0)

  states = jax.ShapeDtypeStruct((B * P, H, width, depth), f32)
  outputs = jax.ShapeDtypeStruct((B, T, H, V), bf16)
  run = plgpu.kernel(
    program,
    out_type=((outputs,) if q is not None else ()) + (states, *outs),
    grid=(B * P, H, width // BLOCK),
    grid_names=("batch", "head", "block"),
    scratch_types=[
      None if q is None else tokens.buffer(stages * q_count, CHUNK, 64),
      tokens.deep(stages),
      tokens.buffer(stages, CHUNK, BLOCK),
      None if x is None else tokens.buffer(CHUNK, BLOCK),
      plgpu.SMEM((stages, CHUNK), f32),
      plgpu.SMEM((stages, CHUNK), f32),
      None if rows is None else plgpu.SMEM((CHUNK,), f32),
      None if q is None else hopper.tiles((BLOCK, together), bf16),
      plgpu.Barrier(num_arrivals=q_count + len(parts) + 3, num_barriers=stages),
      plgpu.Barrier(num_arrivals=1 if rows is None else 2),
      plgpu.Barrier(),
    ],
    compiler_params=plgpu.CompilerParams(approx_math=True),
    kernel_name=f"scalar_decay_{name}",
    interpret=interpret or None,
  )
  return run(*arrays)


class _Gates(NamedTuple):
  """Binary logarithms, but for the last."""

  rows: Any  # The share of a pair of tokens is exp2(rows_i - cols_j).
  cols: Any
  shift: Any  # What a row reads of the state is exp2(rows_i + shift).
  total: Any  # What the chunk leaves of the state; as are the rows.
  writes: Any  # What is written of a column.


def _gates(g_rows, g_cols, i, j, log_scale, reverse):
  """From the decays of a chunk, whose second place is then free."""
  by_row = plgpu.load(g_rows, layout=hopper.ROWS)
  by_col = plgpu.load(g_cols, layout=hopper.COLS)
  none_row = jnp.where(by_row > 0, 1e30, 0.0)
  none_col = jnp.where(by_col > 0, 1e30, 0.0)
  g = hopper.along_cols(jnp.minimum(by_col, 0.0), CHUNK)
  G = hopper.sum_of_rows(jnp.where(i >= j, g, 0.0))
  G_col = _turned(G, g_cols)
  total = hopper.sum_of_rows(g)
  last = g_cols[CHUNK - 1]
  if reverse:
    rows, cols = -G - none_row, -G_col - log_scale + none_col
    return _Gates(rows, cols, last, total, jnp.exp2(G_col + log_scale - none_col))
  rows, cols = G + log_scale - none_row, G_col + none_col
  return _Gates(rows, cols, 0.0, total, jnp.exp2(last - cols))
