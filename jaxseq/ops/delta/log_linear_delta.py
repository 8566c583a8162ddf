"""The log-linear gated delta rule (Guo et al. 2025, arXiv:2506.04761, sec. 3).

    S_t = exp(g_t) (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T
    o_t = sum_l lambda_t^(l) S_t^(l)^T q_t

where S_t^(l) is the part of S_t that came from the values of level l: those of a bucket
of a Fenwick tree over the past (see `ops.fenwick`). Each part is multiplied by the same
matrices. In parallel, O = (P * M) V with P the matrix of the gated delta rule and
M_ij = lambda_i^(l(i, j)). With all lambda = 1 it is `gated_delta_rule`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import chunks, dispatch, fenwick
from jaxseq.ops.delta import triangular
from jaxseq.ops.dispatch import Form
from jaxseq.ops.fenwick import FenwickState

__all__ = ["IMPLEMENTATIONS", "log_linear_delta"]


def log_linear_delta(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  log_decay: Float[Array, "B T H"],
  beta: Float[Array, "B T H"],
  level_scales: Float[Array, "B T H L"],
  *,
  initial_state: FenwickState | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H V"], FenwickState]:
  """Reads what a memory of replaced values took from each scale of the past.

  Args:
    q: Queries.
    k: Keys, of length 1 (or less, if beta is less than 2 / |k|^2): longer ones let the
      state grow. Not checked.
    v: Values.
    log_decay: Natural log g of the share of the state kept at each token, <= 0. Not
      checked.
    beta: How much of the old value is replaced: 0 none, 1 all, 2 reflects.
    level_scales: How much each token reads of level l: itself at 0, and the bucket of
      2^(l - 1) tokens at l; the last level is all that is older. Levels L >= 2.
    initial_state: State before the first token. Empty if None.
    segment_ids: Packed documents; see `ops.segments`.
    scale: Of the queries. K^-1/2 if None.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `v`, and the last state, its buckets in float32.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  gates = dict(log_decay=(log_decay, "B T H"), beta=(beta, "B T H"))
  inputs = fenwick.prepare(
    "log_linear_delta", q, k, v, gates, level_scales, initial_state, segment_ids, scale
  )
  T = q.shape[1]
  run = dispatch.select("log_linear_delta", IMPLEMENTATIONS, implementation, T, inputs)
  return run(inputs)


def recurrent(inputs):
  """The definition: O(log T) states, of which the lowest merge."""

  def update(S, k, v, g, beta):
    S = jnp.exp(g)[..., None, None] * S
    read = jnp.einsum("bhk,bhkv->bhv", k, S, precision="highest")
    u = beta[..., None] * (v - read)
    return S + k[..., None] * u[..., None, :]

  return fenwick.by_token(update, inputs)


def chunked(inputs):
  """The UT transform within chunks, the buckets from chunk to chunk."""
  return fenwick.by_chunk(_chunk, inputs)


def _chunk(q, k, g, beta, *, mask, like):
  """As in `gated_delta_rule`: the stored values are U = X V - (X D_0 K) S_0."""
  decay = chunks.segment_sums(g)
  D = chunks.masked_exp(decay, mask.causal)
  since_start = jnp.exp(jnp.cumsum(g, axis=-1)) * mask.from_state
  to_end = jnp.exp(decay[..., -1, :]) * mask.to_state

  gram = chunks.product("...ik,...jk->...ij", k, k, like=like) * D
  X = triangular.unit_lower_inverse(jnp.tril(beta[..., None] * gram, -1))
  X *= beta[..., None, :]
  scores = chunks.product("...ik,...jk->...ij", q, k, like=like) * D
  P = chunks.product("...im,...mj->...ij", scores, X, like=like)
  early, late = since_start[..., None] * k, to_end[..., None] * k
  return fenwick.Parts(
    weights=P,
    reads=since_start[..., None] * q
    - chunks.product("...ij,...jk->...ik", P, early, like=like),
    keeps=jnp.exp(jnp.sum(g, axis=-1, keepdims=True)) * mask.keeps,
    writes=chunks.product("...ij,...ik->...jk", X, late, like=like),
    erase=late,
    # In float32 whatever the inputs are: the errors of one token reach all later ones.
    erase_reads=chunks.product("...ij,...jk->...ik", X, early, like=g),
  )


IMPLEMENTATIONS = {"chunked": Form(chunked), "recurrent": Form(recurrent)}
