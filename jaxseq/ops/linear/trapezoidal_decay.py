"""Mamba-3's recurrence of rank R (Lahoti et al. 2026, arXiv:2603.15569, sec. 3).

    S_t = exp(g_t) (S_{t-1} + w_t W_{t-1}) + c_t W_t        W_t = sum_r k_tr v_tr^T
    o_tr = S_t^T q_tr                                       state [K, V]

With c_t = lambda_t dt_t and w_t = (1 - lambda_t) dt_t it is the exponential-trapezoidal
rule: the input over a step is taken from both of its ends. With w = 0 and c = 1 it is
`scalar_decay`. R > 1 is the form with many inputs and outputs (MIMO).

W_t is written twice, now and at the next token; both writes are one of c_t + w_{t+1}:

    S'_t = exp(g_t) S'_{t-1} + (c_t + w_{t+1}) W_t,         S_t = S'_t - w_{t+1} W_t

so that the chunked form is that of a scalar decay whose tokens are R rows each, and
only the weight of a token's own rows differs.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import checks, chunks, dispatch, segments
from jaxseq.ops.dispatch import Form

__all__ = ["IMPLEMENTATIONS", "TrapezoidalState", "trapezoidal_decay"]


class TrapezoidalState(NamedTuple):
  """S, and the keys and values of the last token, which are to be written again."""

  memory: Float[Array, "B H K V"]
  k: Float[Array, "B H R K"]
  v: Float[Array, "B H R V"]


def trapezoidal_decay(
  q: Float[Array, "B T H R K"],
  k: Float[Array, "B T H R K"],
  v: Float[Array, "B T H R V"],
  log_decay: Float[Array, "B T H"],
  current: Float[Array, "B T H"],
  previous: Float[Array, "B T H"],
  *,
  initial_state: TrapezoidalState | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H R V"], TrapezoidalState]:
  """Reads a fading sum of key-value products, each written at two tokens.

  Args:
    q: Queries.
    k: Keys.
    v: Values.
    log_decay: Natural log g of the share of the state kept at each token, <= 0. Not
      checked.
    current: Weight c of what the token writes itself.
    previous: Weight w of what the token before it wrote, before the decay.
    initial_state: State before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    scale: Of the queries. K^-1/2 if None.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `v`, and the last state in float32.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  inputs = _prepare(
    q, k, v, log_decay, current, previous, initial_state, segment_ids, scale
  )
  T = q.shape[1]
  run = dispatch.select("trapezoidal_decay", IMPLEMENTATIONS, implementation, T, inputs)
  return run(inputs)


def _prepare(q, k, v, log_decay, current, previous, state, segment_ids, scale):
  """As `chunks.prepare`; the gates are g, c and w."""
  gates = dict(log_decay=log_decay, current=current, previous=previous)
  memory, last_k, last_v = (None, None, None) if state is None else state
  sizes = checks.check_shapes(
    "trapezoidal_decay",
    q=(q, "B T H R K"),
    k=(k, "B T H R K"),
    v=(v, "B T H R V"),
    **{name: (gate, "B T H") for name, gate in gates.items()},
    segment_ids=(segment_ids, "B T"),
    **{
      "initial_state.memory": (memory, "B H K V"),
      "initial_state.k": (last_k, "B H R K"),
      "initial_state.v": (last_v, "B H R V"),
    },
  )
  B, T, H, R, K, V = (sizes[letter] for letter in "BTHRKV")
  kind = jnp.promote_types(v.dtype, jnp.float32)
  if state is None:
    zeros = lambda *shape: jnp.zeros((B, H, *shape))
    state = TrapezoidalState(zeros(K, V), zeros(R, K), zeros(R, V))
  scale = K**-0.5 if scale is None else scale
  q = (q.astype(kind) * scale).astype(q.dtype)
  arrays = [q, k, v, *(gate.astype(kind) for gate in gates.values())]
  valid, starts = jnp.ones((B, T), bool), jnp.zeros((B, T), bool)
  if segment_ids is not None:
    valid, starts, _ = segments.parse(segment_ids)
    arrays = [segments.clear_padding(x, segment_ids) for x in arrays]
  state = jax.tree.map(lambda x: x.astype(kind), state)
  return chunks.Inputs(*arrays[:3], tuple(arrays[3:]), state, valid, starts)


def recurrent(inputs: chunks.Inputs):
  """The definition."""
  q, k, v, gates, state, valid, starts, _ = inputs
  write = lambda k, v: jnp.einsum("bhrk,bhrv->bhkv", k, v, precision="highest")

  def step(state, token):
    q, k, v, g, c, w, valid, start = token
    clear = lambda x: jnp.where(start[:, None, None, None], 0, x)
    S, k_before, v_before = jax.tree.map(clear, state)
    g, c, w = (x[..., None, None] for x in (g, c, w))
    S = jnp.exp(g) * (S + w * write(k_before, v_before)) + c * write(k, v)
    o = jnp.einsum("bhrk,bhkv->bhrv", q, S, precision="highest")
    valid = valid[:, None, None, None]
    last = jnp.where(valid, k, k_before), jnp.where(valid, v, v_before)
    return TrapezoidalState(S, *last), o

  kind = state.memory.dtype
  tokens = (*(x.astype(kind) for x in (q, k, v)), *gates, valid, starts)
  tokens = jax.tree.map(lambda x: x.swapaxes(0, 1), tokens)
  state, o = jax.lax.scan(step, state, tokens)
  o = jnp.where(valid[..., None, None, None], o.swapaxes(0, 1), 0)
  return o.astype(v.dtype), state


def chunked(inputs: chunks.Inputs):
  """A scalar decay of R rows a token, with both writes of a token at once."""
  q, k, v, (g, c, w), state, valid, starts, _ = inputs
  B, T, H, R, _ = q.shape
  follows = (valid & ~starts)[:, 1:, None]  # The next token is of the same document.
  later = jnp.pad(jnp.where(follows, w[:, 1:], 0), ((0, 0), (0, 1), (0, 0)))
  again = jnp.einsum("bhrk,bhrv->bhkv", state.k, state.v, precision="highest")
  place = jnp.arange(T)
  first = jnp.min(jnp.where(valid, place, T - 1), axis=1)
  w_first = jnp.take_along_axis(w, first[:, None, None], axis=1)[:, 0]
  memory = state.memory + w_first[..., None, None] * again

  rows = lambda x: x.swapaxes(2, 3).reshape(B, T * R, H, -1)
  each = lambda x: jnp.repeat(x, R, axis=1)
  head = jnp.arange(T * R) % R == 0  # The first row of each token.
  by_row = chunks.Inputs(
    *(rows(x) for x in (q, k, v)),
    (jnp.where(head[:, None], each(g), 0), each(c), each(later)),
    memory,
    each(valid),
    each(starts) & head,
  )
  size = max(1, chunks.size_for(T * R) // R) * R
  o, memory = chunks.by_chunk(functools.partial(_chunk, rank=R), by_row, size)
  o = o.reshape(B, T, R, H, -1).swapaxes(2, 3)
  last = jnp.max(jnp.where(valid, place, 0), axis=1)[:, None, None, None, None]
  of_last = lambda x: jnp.take_along_axis(x, last, axis=1)[:, 0].astype(memory.dtype)
  some = jnp.any(valid, axis=1)[:, None, None, None]
  k, v = jnp.where(some, of_last(k), state.k), jnp.where(some, of_last(v), state.v)
  return o, TrapezoidalState(memory, k, v)


def _chunk(q, k, v, g, c, later, *, mask, rank):
  """As in `scalar_decay`, but that the rows of a token see each other."""
  token = jnp.arange(q.shape[-2]) // rank
  same = token[:, None] == token
  decay = chunks.segment_sums(g)
  D = chunks.masked_exp(decay, mask.causal | same)
  since_start = jnp.exp(jnp.cumsum(g, axis=-1)) * mask.from_state
  to_end = jnp.exp(decay[..., -1, :]) * mask.to_state * (c + later)
  weights = D * jnp.where(same, c[..., None, :], (c + later)[..., None, :])

  scores = chunks.product("...ik,...jk->...ij", q, k, like=v) * weights
  return chunks.Affine(
    out=chunks.product("...ij,...jv->...iv", scores, v, like=v),
    reads=since_start[..., None] * q,
    keeps=jnp.exp(jnp.sum(g, axis=-1, keepdims=True)) * mask.keeps,
    writes=chunks.product("...jk,...jv->...kv", to_end[..., None] * k, v, like=v),
  )


IMPLEMENTATIONS = {"chunked": Form(chunked), "recurrent": Form(recurrent)}
