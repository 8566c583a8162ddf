"""Attention to a fixed number of slots: ABC and gated slot attention (GSA).

    K_t = diag(exp(g_t)) K_{t-1} + w_t k_t^T                 keys of the slots [M, K]
    V_t = diag(exp(g_t)) V_{t-1} + w_t v_t^T                 values of the slots [M, V]
    o_t = V_t^T softmax(K_t q_t)

In GSA (Zhang et al. 2024, arXiv:2409.07146, sec. 3.2) w_t = 1 - exp(g_t). In ABC (Peng
et al. 2021, arXiv:2110.02488, sec. 3) a slot is a mean of all tokens, weighted by a
softmax over time; see `softmax_writes`.

It takes two passes. The second is a diagonal decay with the softmax as query. The first
is one of K^T, that decays by what it puts out: within a chunk, with A_ij = q_i^T k_j,

    (K_i q_i)_m = sum_j A_ij w_jm exp(g_{j+1,m} + ... + g_{i,m}) + what is left of K_0
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import blocks, checks, chunks, dispatch, segments
from jaxseq.ops.dispatch import Form
from jaxseq.ops.linear import diagonal_decay

__all__ = ["IMPLEMENTATIONS", "SlotState", "slot_attention", "softmax_writes"]


NOTHING = -1e30  # A logarithm of zero whose differences are finite.


class SlotState(NamedTuple):
  """What the slots hold, float32."""

  keys: Float[Array, "B H M K"]
  values: Float[Array, "B H M V"]


def slot_attention(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  write: Float[Array, "B T H M"],
  log_decay: Float[Array, "B T H M"],
  *,
  initial_state: SlotState | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H V"], SlotState]:
  """Softmax attention to M slots, to which all tokens are written.

  Args:
    q: Queries.
    k: Keys.
    v: Values.
    write: How much of each token goes to each slot.
    log_decay: Natural log g of the share of each slot kept at each token, <= 0. Not
      checked.
    initial_state: The slots before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    scale: Of the queries. K^-1/2 if None.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `v`, and the last slots.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  keys, values = (None, None) if initial_state is None else initial_state
  q, k, v = chunks.share_heads(q, k, v)
  sizes = checks.check_shapes(
    "slot_attention",
    q=(q, "B T H K"),
    k=(k, "B T H K"),
    v=(v, "B T H V"),
    write=(write, "B T H M"),
    log_decay=(log_decay, "B T H M"),
    keys=(keys, "B H M K"),
    values=(values, "B H M V"),
  )
  gates = dict(write=(write, "B T H M"), log_decay=(log_decay, "B T H M"))
  inputs = chunks.prepare("slot_attention", q, k, v, gates, None, segment_ids, scale)
  kind = inputs.state.dtype
  empty = lambda size: jnp.zeros([sizes[a] for a in "BHM"] + [size], kind)
  keys = empty(sizes["K"]) if keys is None else keys.astype(kind)
  values = empty(sizes["V"]) if values is None else values.astype(kind)
  args = inputs._replace(state=None), SlotState(keys, values)
  run = dispatch.select(
    "slot_attention", IMPLEMENTATIONS, implementation, sizes["T"], *args
  )
  return run(*args)


def softmax_writes(
  scores: Float[Array, "B T H M"],
  initial_state: Float[Array, "B H M"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
) -> tuple[Float[Array, "B T H M"], Float[Array, "B T H M"], Float[Array, "B H M"]]:
  """Makes of each slot the mean of all tokens so far, weighted by exp(scores).

  Args:
    scores: Logarithms of the weights.
    initial_state: Log of the sum of all weights before the first token. None if there
      was none; then -1e30 stands for the log of zero.
    segment_ids: Packed documents; see `ops.segments`.

  Returns:
    `write` and `log_decay` for `slot_attention`, and the last log sum, all float32.

  Raises:
    ValueError: If shapes do not fit.
  """
  checks.check_shapes(
    "softmax_writes",
    scores=(scores, "B T H M"),
    initial_state=(initial_state, "B H M"),
    segment_ids=(segment_ids, "B T"),
  )
  s = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
  if segment_ids is None:
    segment_ids = jnp.ones(s.shape[:2], jnp.int32)
  valid, starts, _ = (x[..., None, None] for x in segments.parse(segment_ids))
  s = jnp.where(valid, s, NOTHING)
  if initial_state is None:
    initial_state = jnp.full_like(s[:, 0], NOTHING)

  def compose(earlier, later):
    (a, x), (b, y) = earlier, later
    return a | b, jnp.where(b, y, jnp.logaddexp(x, y))

  fresh, z = jax.lax.associative_scan(compose, (starts, s), axis=1)
  first = initial_state.astype(s.dtype)[:, None]
  z = jnp.where(fresh, z, jnp.logaddexp(first, z))
  write = jnp.where(valid, jnp.exp(s - z), 0)
  # Small steps of z are lost to rounding, and what is left of large weights likewise.
  small = write < 0.5
  before = jnp.where(starts, NOTHING, jnp.concatenate([first, z[:, :-1]], axis=1))
  log_decay = jnp.where(small, jnp.log1p(-jnp.where(small, write, 0)), before - z)
  return write, log_decay, z[:, -1]


def recurrent(inputs, slots):
  """The definition."""
  q, k, v, (w, g), _, valid, starts, _ = inputs
  kind = slots.keys.dtype

  def step(slots, token):
    q, k, v, w, g, start = token
    keys, values = (jnp.where(start[:, None, None, None], 0, S) for S in slots)
    keys = jnp.exp(g)[..., None] * keys + w[..., None] * k[..., None, :]
    values = jnp.exp(g)[..., None] * values + w[..., None] * v[..., None, :]
    p = jax.nn.softmax(jnp.einsum("bhk,bhmk->bhm", q, keys, precision="highest"))
    o = jnp.einsum("bhm,bhmv->bhv", p, values, precision="highest")
    return SlotState(keys, values), o

  tokens = (*(x.astype(kind) for x in (q, k, v)), w, g, starts)
  slots, o = jax.lax.scan(step, slots, jax.tree.map(lambda x: x.swapaxes(0, 1), tokens))
  return jnp.where(valid[..., None, None], o.swapaxes(0, 1), 0).astype(v.dtype), slots


def chunked(inputs, slots):
  """Matrix products within chunks, the slots from chunk to chunk."""
  p, keys = _first_pass(inputs, slots.keys)
  w, g = inputs.gates
  second = inputs._replace(q=p, k=w, gates=(g,), state=slots.values)
  o, values = diagonal_decay.chunked(second)
  return o, SlotState(keys, values)


def _first_pass(inputs, keys):
  """softmax(K_t q_t) of all tokens [B, T, H, M], and the last K."""
  q, k, v, (w, g), _, valid, starts, _ = inputs
  T = q.shape[1]
  heads_first = lambda x: jnp.moveaxis(x, 3, 2)  # Each [N, B, H, C, ...].
  tokens = (q, k, w, g, valid[..., None], starts[..., None])
  tokens = jax.tree.map(heads_first, blocks.split(tokens, chunks.size_for(T)))

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def step(keys, tokens):
    q, k, w, g, valid, starts = tokens
    mask = chunks.masks(starts, valid)
    product = lambda spec, *operands: chunks.product(spec, *operands, like=v)
    A = jnp.where(mask.causal, product("...ik,...jk->...ij", q, k), 0)
    since = jnp.exp(jnp.cumsum(g, axis=-2)) * mask.from_state[..., None]
    until = jnp.exp(_sums_after(g)) * mask.to_state[..., None]
    scores = _decayed_sums(A, w, g, product)
    scores += since * product("...ik,...mk->...im", q, keys)
    keys = (jnp.exp(jnp.sum(g, axis=-2)) * mask.keeps)[..., None] * keys
    return keys + product("...jm,...jk->...mk", until * w, k), jax.nn.softmax(scores)

  keys, p = jax.lax.scan(step, keys, tokens)
  return blocks.join(jnp.moveaxis(p, 2, 3), T), keys


def _decayed_sums(A, w, g, product):
  """sum_j A_ij w_jm exp(g_{j+1,m} + ... + g_{i,m}) for j <= i; C a power of two.

  Between the halves of a chunk that is a product of matrices, the decays split where
  the second half begins. The halves are done together, those of few tokens as they
  stand.
  """
  C = A.shape[-1]
  if C <= 8:
    kept = jnp.exp(chunks.segment_sums(g.mT)) * w.mT[..., None, :]  # [..., M, C, C]
    return jnp.sum(A[..., None, :, :] * kept, axis=-1).mT
  half = C // 2
  halves = lambda x: jnp.stack([x[..., :half, :], x[..., half:, :]])
  across = A[..., half:, :half]
  within = jnp.stack([A[..., :half, :half], A[..., half:, half:]])
  first, second = _decayed_sums(within, halves(w), halves(g), product)
  (w, _), (g_0, g_1) = halves(w), halves(g)
  earlier = product("...ij,...jm->...im", across, jnp.exp(_sums_after(g_0)) * w)
  second += jnp.exp(jnp.cumsum(g_1, axis=-2)) * earlier
  return jnp.concatenate([first, second], axis=-2)


def _sums_after(g):
  """Sums over all later tokens; 0 at the last."""
  later = jnp.concatenate([g[..., 1:, :], jnp.zeros_like(g[..., :1, :])], axis=-2)
  return jnp.flip(jnp.cumsum(jnp.flip(later, -2), axis=-2), -2)


IMPLEMENTATIONS = {"chunked": Form(chunked), "recurrent": Form(recurrent)}
