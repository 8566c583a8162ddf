"""Log-linear attention with a scalar decay (Guo et al. 2025, arXiv:2506.04761, sec. 3).

    S_t = exp(g_t) S_{t-1} + k_t v_t^T,   o_t = sum_l lambda_t^(l) S_t^(l)^T q_t

where S_t^(l) is the part of S_t that came from the tokens of level l: those of a bucket
of a Fenwick tree over the past (see `ops.fenwick`). In its parallel form

    O = (Q K^T * D * M) V
    D_ij = exp(g_{j+1} + ... + g_i),   M_ij = lambda_i^(l(i, j))                 j <= i

With all lambda = 1 it is `scalar_decay`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import chunks, dispatch, fenwick
from jaxseq.ops.dispatch import Form
from jaxseq.ops.fenwick import FenwickState

__all__ = ["IMPLEMENTATIONS", "log_linear"]


def log_linear(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  log_decay: Float[Array, "B T H"],
  level_scales: Float[Array, "B T H L"],
  *,
  initial_state: FenwickState | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H V"], FenwickState]:
  """Reads fading sums of key-value products, one for each scale of the past.

  Args:
    q: Queries.
    k: Keys.
    v: Values.
    log_decay: Natural log g of the share of the state kept at each token, <= 0. Not
      checked.
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
  gates = dict(log_decay=(log_decay, "B T H"))
  inputs = fenwick.prepare(
    "log_linear", q, k, v, gates, level_scales, initial_state, segment_ids, scale
  )
  T = q.shape[1]
  run = dispatch.select("log_linear", IMPLEMENTATIONS, implementation, T, inputs)
  return run(inputs)


def recurrent(inputs):
  """The definition: O(log T) states, of which the lowest merge."""

  def update(S, k, v, g):
    return jnp.exp(g)[..., None, None] * S + k[..., None] * v[..., None, :]

  return fenwick.by_token(update, inputs)


def parallel(inputs):
  """One chunk of all tokens: T x T scores."""
  return fenwick.by_chunk(_chunk, inputs, size=inputs.q.shape[1])


def chunked(inputs):
  """`parallel` within chunks, the buckets from chunk to chunk."""
  return fenwick.by_chunk(_chunk, inputs)


def _chunk(q, k, g, *, mask, like):
  """As in `scalar_decay`."""
  decay = chunks.segment_sums(g)
  D = chunks.masked_exp(decay, mask.causal)
  since_start = jnp.exp(jnp.cumsum(g, axis=-1)) * mask.from_state
  to_end = jnp.exp(decay[..., -1, :]) * mask.to_state
  return fenwick.Parts(
    weights=chunks.product("...ik,...jk->...ij", q, k, like=like) * D,
    reads=since_start[..., None] * q,
    keeps=jnp.exp(jnp.sum(g, axis=-1, keepdims=True)) * mask.keeps,
    writes=to_end[..., None] * k,
  )


IMPLEMENTATIONS = {
  "chunked": Form(chunked),
  "parallel": Form(parallel),
  "recurrent": Form(recurrent),
}
