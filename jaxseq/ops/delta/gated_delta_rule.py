"""The gated delta rule (Gated DeltaNet, Yang et al. 2024, arXiv:2412.06464, eq. 10).

    S_t = exp(g_t) (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T
    o_t = S_t^T q_t                                          state [K, V]

With the value that is really stored, u_t = beta_t (v_t - exp(g_t) S_{t-1}^T k_t), this
is S_t = exp(g_t) S_{t-1} + k_t u_t^T: a scalar decay whose values depend on the state.
Within a chunk, with D_ij = exp(g_{j+1} + ... + g_i),

    (I + L) U = diag(beta) (V - diag(D_i0) K S_0)
    L = tril(diag(beta) (K K^T * D), -1)

is solved for all u at once (the UT transform: DeltaNet, Yang et al. 2024,
arXiv:2406.06484, sec. 3.2; Gated DeltaNet, sec. 3.3).
"""

import jax.numpy as jnp
from jaxseq_kernels import gated_delta_rule as kernel
from jaxtyping import Array, Float, Int

from jaxseq.ops import chunks, dispatch
from jaxseq.ops.delta import triangular
from jaxseq.ops.dispatch import Form

__all__ = ["IMPLEMENTATIONS", "chunk", "gated_delta_rule"]


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

  def update(S, k, v, g, beta):
    S = jnp.exp(g)[..., None, None] * S
    read = jnp.einsum("bhk,bhkv->bhv", k, S, precision="highest")
    u = beta[..., None] * (v - read)
    return S + k[..., None] * u[..., None, :]

  return chunks.by_token(update, inputs)


def chunked(inputs):
  """The UT transform within chunks, `recurrent` from chunk to chunk."""
  return chunks.by_chunk(chunk, inputs)


def chunk(q, k, v, g, beta, *, mask):
  """A chunk as a map of the state before it: U is U_0 - W S_0."""
  decay = chunks.segment_sums(g)
  D = chunks.masked_exp(decay, mask.causal)
  since_start = jnp.exp(jnp.cumsum(g, axis=-1)) * mask.from_state
  to_end = jnp.exp(decay[..., -1, :]) * mask.to_state

  rows = beta[..., None]
  L = jnp.tril(rows * chunks.product("...ik,...jk->...ij", k, k, like=v) * D, -1)
  right = jnp.concatenate([rows * v, rows * since_start[..., None] * k], axis=-1)
  U, W = jnp.split(triangular.solve(L, right, like=v), [v.shape[-1]], axis=-1)

  scores = chunks.product("...ik,...jk->...ij", q, k, like=v) * D
  late = to_end[..., None] * k
  return chunks.Affine(
    out=chunks.product("...ij,...jv->...iv", scores, U, like=v),
    reads=since_start[..., None] * q
    - chunks.product("...ij,...jk->...ik", scores, W, like=v),
    keeps=jnp.exp(jnp.sum(g, axis=-1, keepdims=True)) * mask.keeps,
    writes=chunks.product("...jk,...jv->...kv", late, U, like=v),
    erase=late,
    erase_reads=W,
  )


IMPLEMENTATIONS = {
  "pallas_tpu": chunks.by_kernel(kernel, "BTH", "BTH", backend="tpu"),
  "pallas_gpu": chunks.by_kernel(kernel, "BTH", "BTH", backend="gpu"),
  "chunked": Form(chunked),
  "pallas_gpu_step": chunks.by_step("log_decay", "beta"),
  "recurrent": Form(recurrent),
}
