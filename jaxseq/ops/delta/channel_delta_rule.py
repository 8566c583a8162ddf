"""The delta rule with a decay for each key channel (KDA: Kimi Linear, Kimi Team 2025,
arXiv:2510.26692, eq. 1).

    S_t = (I - beta_t k_t k_t^T) diag(exp(g_t)) S_{t-1} + beta_t k_t v_t^T
    o_t = S_t^T q_t                                          state [K, V]

With one decay for all channels it is `gated_delta_rule`. Here the value that is stored,
u_t = beta_t (v_t - S_{t-1}^T (exp(g_t) * k_t)), is found within a chunk from

    (I + L) U = diag(beta) (V - (D_0 * K) S_0)
    L_ij = beta_i sum_c k_ic k_jc exp(g_{j+1,c} + ... + g_{i,c}),    j < i

where D_0 is what is left of the state before: the UT transform, its scores made by
`chunks.decayed_scores`, so that no exponent is positive at any decay.
"""

import jax.numpy as jnp
from jaxseq_kernels import channel_delta_rule as kernel
from jaxtyping import Array, Float, Int

from jaxseq.ops import chunks, dispatch
from jaxseq.ops.delta import triangular
from jaxseq.ops.dispatch import Form

__all__ = ["IMPLEMENTATIONS", "affine", "channel_delta_rule"]


def channel_delta_rule(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  log_decay: Float[Array, "B T H K"],
  beta: Float[Array, "B T H"],
  *,
  initial_state: Float[Array, "B H K V"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
  """Replaces what is stored under a key, in a memory that fades by channel.

  Args:
    q: Queries.
    k: Keys, of length 1 (or less, if beta is less than 2 / |k|^2): longer ones let the
      state grow. Not checked.
    v: Values.
    log_decay: Natural log g of the share of each row of the state kept at each token,
      <= 0. Not checked.
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
  gates = dict(log_decay=(log_decay, "B T H K"), beta=(beta, "B T H"))
  inputs = chunks.prepare(
    "channel_delta_rule", q, k, v, gates, initial_state, segment_ids, scale
  )
  T = q.shape[1]
  run = dispatch.select(
    "channel_delta_rule", IMPLEMENTATIONS, implementation, T, inputs
  )
  return run(inputs)


def recurrent(inputs):
  """The definition."""

  def update(S, k, v, g, beta):
    S = jnp.exp(g)[..., None] * S
    read = jnp.einsum("bhk,bhkv->bhv", k, S, precision="highest")
    u = beta[..., None] * (v - read)
    return S + k[..., None] * u[..., None, :]

  return chunks.by_token(update, inputs)


def chunked(inputs):
  """The UT transform within chunks, `recurrent` from chunk to chunk."""
  return chunks.by_chunk(_chunk, inputs)


def _chunk(q, k, v, g, beta, *, mask):
  rows = beta[..., None]
  return affine(q, k, rows * v, g, rows * k, mask=mask, like=v)


def affine(q, k, v, g, erase, *, mask, like):
  """A chunk of S_t = (I - k_t e_t^T) diag(exp(g_t)) S_{t-1} + k_t v_t^T as a map.

  The stored values are U = X V - W S_0 with X = (I + L)^-1 and W = X (D_0 * E).
  """
  A, since, until = chunks.decayed_scores(
    jnp.stack(jnp.broadcast_arrays(q, erase), axis=-3), k[..., None, :, :], g, like=like
  )
  A = jnp.where(mask.causal[..., None, :, :], A[..., 0, :, :], 0)
  scores, L = A[..., 0, :, :], jnp.tril(A[..., 1, :, :], -1)
  since = jnp.where(mask.from_state[..., None], jnp.exp(since), 0)
  until = jnp.where(mask.to_state[..., None], jnp.exp(until), 0)

  right = jnp.concatenate([v, since * erase], axis=-1)
  U, W = jnp.split(triangular.solve(L, right, like=like), [v.shape[-1]], axis=-1)
  late = until * k
  return chunks.Affine(
    out=chunks.product("...ij,...jv->...iv", scores, U, like=like),
    reads=since * q - chunks.product("...ij,...jk->...ik", scores, W, like=like),
    keeps=jnp.exp(jnp.sum(g, axis=-2)) * mask.keeps,
    writes=chunks.product("...jk,...jv->...kv", late, U, like=like),
    erase=late,
    erase_reads=W,
  )


IMPLEMENTATIONS = {
  "pallas_tpu": chunks.by_kernel(kernel, "BTHK", "BTH", backend="tpu"),
  "pallas_gpu": chunks.by_kernel(kernel, "BTHK", "BTH", backend="gpu"),
  "chunked": Form(chunked),
  "pallas_gpu_step": chunks.by_step("log_decay", "beta"),
  "recurrent": Form(recurrent),
}
