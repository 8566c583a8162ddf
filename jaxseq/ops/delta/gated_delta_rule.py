"""The gated delta rule (Gated DeltaNet, Yang et al. 2024, arXiv:2412.06464, eq. 10).

    S_t = exp(g_t) (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T
    o_t = S_t^T q_t                                          state [K, V]

Written with the value that is really stored, u_t = beta_t (v_t - exp(g_t) S_{t-1}^T k_t),
this is S_t = exp(g_t) S_{t-1} + k_t u_t^T: a scalar decay whose values depend on the
state. Within a chunk, with D_ij = exp(g_{j+1} + ... + g_i),

    (I + L) U = diag(beta) (V - diag(D_i0) K S_0),    L = tril(diag(beta) (K K^T * D), -1)

is solved for all u at once (the UT transform: DeltaNet, Yang et al. 2024,
arXiv:2406.06484, sec. 3.2; Gated DeltaNet, sec. 3.3).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import blocks, chunks, dispatch
from jaxseq.ops.dispatch import Form

__all__ = ["IMPLEMENTATIONS", "gated_delta_rule", "unit_lower_inverse"]


def gated_delta_rule(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  log_decay: Float[Array, "B T H"],
  beta: Float[Array, "B T H"],
  *,
  initial_state: Float[Array, "B H K V"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
  """Replaces, in a fading memory, what is stored under a key by a new value.

  Args:
    q: Queries.
    k: Keys, of length 1 (or less, if beta is less than 2 / |k|^2): longer ones let the
      state grow. Not checked.
    v: Values.
    log_decay: Natural log g of the share of the state kept at each token, <= 0. Not
      checked.
    beta: How much of the old value is replaced: 0 none, 1 all, 2 reflects.
    initial_state: State before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    scale: Of the queries. K^-1/2 if None.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `v`, and the last state in float32.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  gates = dict(log_decay=(log_decay, "B T H"), beta=(beta, "B T H"))
  inputs = chunks.prepare(
    "gated_delta_rule", q, k, v, gates, initial_state, segment_ids, scale
  )
  T = q.shape[1]
  run = dispatch.select("gated_delta_rule", IMPLEMENTATIONS, implementation, T, inputs)
  return run(inputs)


def recurrent(inputs):
  """The definition."""
  like = inputs.v

  def step(S, token):
    q, k, v, g, beta, valid, start = token
    S = jnp.where(start[:, None, None, None], 0, S)
    S = jnp.exp(g)[..., None, None] * S
    u = beta[..., None] * (v - chunks.product("bhk,bhkv->bhv", k, S, like=like))
    S = S + chunks.product("bhk,bhv->bhkv", k, u, like=like)
    o = chunks.product("bhk,bhkv->bhv", q, S, like=like)
    return S, jnp.where(valid[:, None, None], o, 0).astype(like.dtype)

  q, k, v, (g, beta), state, valid, starts = inputs
  tokens = jax.tree.map(lambda x: x.swapaxes(0, 1), (q, k, v, g, beta, valid, starts))
  S, o = jax.lax.scan(step, state, tokens)
  return o.swapaxes(0, 1), S


def chunked(inputs):
  """The UT transform within chunks, `recurrent` from chunk to chunk.

  The backward pass makes each chunk again from the state that it began with.
  """
  q, k, v, (g, beta), state, valid, starts = inputs
  T = q.shape[1]
  cut = blocks.split((q, k, v, g, beta, starts), chunks.size_for(T))

  @jax.checkpoint
  def step(S, block):
    o, S = _chunk(S, block)
    return S, o.astype(v.dtype)

  S, o = jax.lax.scan(step, state, cut)
  return jnp.where(valid[..., None, None], blocks.join(o, T), 0), S


def _chunk(S, block):
  """Outputs of a chunk and the state after it, from the state before it."""
  q, k, v, g, beta, starts = block
  mask = chunks.masks(starts)
  decay = chunks.segment_sums(g)  # [B, C, C, H]
  D = chunks.masked_exp(decay, mask.causal[..., None]).transpose(0, 3, 1, 2)
  since_start = jnp.exp(jnp.cumsum(g, axis=1)) * mask.from_state[..., None]
  to_end = jnp.exp(decay[:, -1]) * mask.to_state[..., None]

  rows = beta.swapaxes(1, 2)[..., None]
  L = jnp.tril(rows * chunks.product("bihk,bjhk->bhij", k, k, like=v) * D, -1)
  read = chunks.product("bihk,bhkv->bihv", k, S, like=v)
  right = beta[..., None] * (v - since_start[..., None] * read)
  # In float32 whatever the inputs are: the errors of one token reach all later ones.
  u = chunks.product("bhij,bjhv->bihv", unit_lower_inverse(L), right, like=S)

  scores = chunks.product("bihk,bjhk->bhij", q, k, like=v) * D
  o = chunks.product("bhij,bjhv->bihv", scores, u, like=v)
  o += since_start[..., None] * chunks.product("bihk,bhkv->bihv", q, S, like=v)
  kept = jnp.exp(jnp.sum(g, axis=1)) * mask.keeps[:, None]
  S = kept[..., None, None] * S
  S += chunks.product("bjhk,bjhv->bhkv", k * to_end[..., None], u, like=v)
  return o, S


def unit_lower_inverse(L: Float[Array, "... C C"]) -> Float[Array, "... C C"]:
  """(I + L)^-1 for strictly lower triangular L, C a power of two.

  Blocks on the diagonal double in size, from 1 to C. With X the inverse of the diagonal
  blocks so far and M the part of L that joins them in pairs,

      [[A, 0], [M, B]]^-1 = [[A^-1, 0], [-B^-1 M A^-1, B^-1]] = X - X M X
  """
  C = L.shape[-1]
  place = jnp.arange(C)
  X = jnp.broadcast_to(jnp.eye(C, dtype=L.dtype), L.shape)
  size = 1
  while size < C:
    row, column = place[:, None] // size, place // size
    pair = (row // 2 == column // 2) & (row % 2 == 1) & (column % 2 == 0)
    M = jnp.where(pair, L, 0)
    X = X - jnp.matmul(jnp.matmul(X, M, precision="highest"), X, precision="highest")
    size *= 2
  return X


IMPLEMENTATIONS = {"chunked": Form(chunked), "recurrent": Form(recurrent)}
