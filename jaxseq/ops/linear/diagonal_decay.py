"""Linear attention with a decay for each key channel: GLA, HGRN2, RWKV-6 without bonus.

    S_t = diag(exp(g_t)) S_{t-1} + k_t v_t^T,    o_t = S_t^T q_t     state [K, V]

(GLA, Yang et al. 2023, arXiv:2312.06635, eq. 3.) Within a chunk the score of query i
and key j is the sum over channels of q_i k_j exp(g_{j+1} + ... + g_i), no matrix
product. GLA cuts chunks again (sec. 4.3); here they are halved down to single tokens,
see `chunks.decayed_scores`.
"""

import jax.numpy as jnp
from jaxseq_kernels import diagonal_decay as kernel
from jaxtyping import Array, Float, Int

from jaxseq.ops import chunks, dispatch
from jaxseq.ops.dispatch import Form

__all__ = ["IMPLEMENTATIONS", "chunk", "diagonal_decay"]


def diagonal_decay(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  log_decay: Float[Array, "B T H K"],
  *,
  initial_state: Float[Array, "B H K V"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
  """Reads a sum of key-value products, fading by channel, with queries.

  Args:
    q: Queries.
    k: Keys.
    v: Values.
    log_decay: Natural log g of the share of each row of the state kept at each token,
      <= 0. Not checked.
    initial_state: State before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    scale: Of the queries. K^-1/2 if None.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `v`, and the last state in float32.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  gates = dict(log_decay=(log_decay, "B T H K"))
  inputs = chunks.prepare(
    "diagonal_decay", q, k, v, gates, initial_state, segment_ids, scale
  )
  T = q.shape[1]
  run = dispatch.select("diagonal_decay", IMPLEMENTATIONS, implementation, T, inputs)
  return run(inputs)


def recurrent(inputs):
  """The definition."""

  def update(S, k, v, g):
    return jnp.exp(g)[..., None] * S + k[..., None] * v[..., None, :]

  return chunks.by_token(update, inputs)


def associative(inputs):
  """The updates composed by a tree."""
  (g,) = inputs.gates
  return chunks.by_tree(jnp.exp(g), inputs)


def chunked(inputs):
  """Matrix products within chunks, `recurrent` from chunk to chunk."""
  return chunks.by_chunk(chunk, inputs)


def chunk(q, k, v, g, *, mask):
  """A chunk as a map of the state before it."""
  A, since, until = chunks.decayed_scores(
    q[..., None, :, :], k[..., None, :, :], g, like=v
  )
  A = jnp.where(mask.causal, A[..., 0, 0, :, :], 0)
  since = jnp.where(mask.from_state[..., None], jnp.exp(since), 0)
  until = jnp.where(mask.to_state[..., None], jnp.exp(until), 0)
  return chunks.Affine(
    out=chunks.product("...ij,...jv->...iv", A, v, like=v),
    reads=since * q,
    keeps=jnp.exp(jnp.sum(g, axis=-2)) * mask.keeps,
    writes=chunks.product("...jk,...jv->...kv", until * k, v, like=v),
  )


IMPLEMENTATIONS = {
  "pallas_tpu": chunks.by_kernel(kernel, "BTHK", backend="tpu"),
  "pallas_gpu": chunks.by_kernel(kernel, "BTHK", backend="gpu"),
  "chunked": Form(chunked),
  "associative": Form(associative),
  "recurrent": Form(recurrent),
}
