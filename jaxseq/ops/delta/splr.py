"""A transition that is scalar plus low rank (Comba, Hu et al. 2025, arXiv:2506.02475).

    S_t = (exp(g_t) I - beta_t k_t p_t^T) S_{t-1} + beta_t k_t v_t^T
    o_t = S_t^T q_t                                          state [K, V]

Unlike in `gated_delta_rule` what is replaced is read before the decay, and under a
vector of its own. Within a chunk the stored values u_t = beta_t (v_t - S_{t-1}^T p_t)
are

    (I + L) U = diag(beta) (V - diag(D_{i-1,0}) P S_0)
    L_ij = beta_i p_i^T k_j D_{i-1,j},    D_ij = exp(g_{j+1} + ... + g_i),    j < i.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import chunks, dispatch
from jaxseq.ops.delta import triangular
from jaxseq.ops.dispatch import Form

__all__ = ["IMPLEMENTATIONS", "splr"]


def splr(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  p: Float[Array, "B T H K"],
  log_decay: Float[Array, "B T H"],
  beta: Float[Array, "B T H"],
  *,
  initial_state: Float[Array, "B H K V"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
  """Writes values in place of what a vector of its own reads, in a fading memory.

  Args:
    q: Queries.
    k: Keys.
    v: Values.
    p: What is read of the state before the token, to be removed under `k`. The state
      grows unless exp(g) I - beta k p^T shrinks. Not checked.
    log_decay: Natural log g of the share of the state kept at each token, <= 0. Not
      checked.
    beta: How much is written and removed.
    initial_state: State before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    scale: Of the queries. K^-1/2 if None.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `v`, and the last state in float32.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  gates = dict(p=(p, "B T H K"), log_decay=(log_decay, "B T H"), beta=(beta, "B T H"))
  inputs = chunks.prepare("splr", q, k, v, gates, initial_state, segment_ids, scale)
  run = dispatch.select("splr", IMPLEMENTATIONS, implementation, q.shape[1], inputs)
  return run(inputs)


def recurrent(inputs):
  """The definition."""

  def update(S, k, v, p, g, beta):
    read = jnp.einsum("bhk,bhkv->bhv", p, S, precision="highest")
    u = beta[..., None] * (v - read)
    return jnp.exp(g)[..., None, None] * S + k[..., None] * u[..., None, :]

  return chunks.by_token(update, inputs)


def chunked(inputs):
  """The UT transform within chunks, `recurrent` from chunk to chunk."""
  return chunks.by_chunk(_chunk, inputs)


def _chunk(q, k, v, p, g, beta, *, mask):
  """A chunk as a map of the state before it: U is U_0 - W S_0."""
  decay, total = chunks.segment_sums(g), jnp.cumsum(g, axis=-1)
  D = chunks.masked_exp(decay, mask.causal)
  # p_i reads what has not yet faded at i: row i - 1 of the decays.
  before = chunks.masked_exp(chunks.row_before(decay), mask.causal)
  begins = lambda x: (jnp.exp(x) * mask.from_state)[..., None]
  to_end = jnp.exp(decay[..., -1, :]) * mask.to_state

  rows = beta[..., None]
  L = rows * chunks.product("...ik,...jk->...ij", p, k, like=v) * before
  early = rows * begins(chunks.row_before(total[..., None])[..., 0]) * p
  right = jnp.concatenate([rows * v, early], axis=-1)
  solved = triangular.solve(jnp.tril(L, -1), right, like=v)
  U, W = jnp.split(solved, [v.shape[-1]], axis=-1)

  scores = chunks.product("...ik,...jk->...ij", q, k, like=v) * D
  late = to_end[..., None] * k
  return chunks.Affine(
    out=chunks.product("...ij,...jv->...iv", scores, U, like=v),
    reads=begins(total) * q - chunks.product("...ij,...jk->...ik", scores, W, like=v),
    keeps=jnp.exp(jnp.sum(g, axis=-1, keepdims=True)) * mask.keeps,
    writes=chunks.product("...jk,...jv->...kv", late, U, like=v),
    erase=late,
    erase_reads=W,
  )


IMPLEMENTATIONS = {"chunked": Form(chunked), "recurrent": Form(recurrent)}
