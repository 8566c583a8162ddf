"""Linear attention with one decay a head and token: RetNet, Lightning, Mamba-2.

    S_t = exp(g_t) S_{t-1} + k_t v_t^T,    o_t = S_t^T q_t         state [K, V]

The parallel form is O = (Q K^T * D) V with D_ij = exp(g_{j+1} + ... + g_i) for j <= i
(RetNet, Sun et al. 2023, arXiv:2307.08621, eq. 5; Mamba-2, Dao & Gu 2024,
arXiv:2405.21060, sec. 3); the chunked form is parallel within a chunk and recurrent
from chunk to chunk (RetNet, eq. 7; Mamba-2, sec. 6).
"""

import jax.numpy as jnp
from jaxseq_kernels import scalar_decay as kernel
from jaxtyping import Array, Float, Int

from jaxseq.ops import chunks, dispatch
from jaxseq.ops.dispatch import Form

__all__ = ["IMPLEMENTATIONS", "scalar_decay"]


def scalar_decay(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  log_decay: Float[Array, "B T H"],
  *,
  initial_state: Float[Array, "B H K V"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
  """Reads a fading sum of key-value products with queries.

  Args:
    q: Queries.
    k: Keys.
    v: Values.
    log_decay: Natural log g of the share of the state kept at each token, <= 0. Not
      checked.
    initial_state: State before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    scale: Of the queries. K^-1/2 if None.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `v`, and the last state in float32.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  gates = dict(log_decay=(log_decay, "B T H"))
  inputs = chunks.prepare(
    "scalar_decay", q, k, v, gates, initial_state, segment_ids, scale
  )
  T = q.shape[1]
  run = dispatch.select("scalar_decay", IMPLEMENTATIONS, implementation, T, inputs)
  return run(inputs)


def recurrent(inputs):
  """The definition."""

  def update(S, k, v, g):
    return jnp.exp(g)[..., None, None] * S + k[..., None] * v[..., None, :]

  return chunks.by_token(update, inputs)


def associative(inputs):
  """The updates composed by a tree."""
  (g,) = inputs.gates
  return chunks.by_tree(jnp.exp(g)[..., None], inputs)


def parallel(inputs):
  """One chunk of all tokens: T x T scores."""
  return chunks.by_chunk(_chunk, inputs, size=inputs.q.shape[1])


def chunked(inputs):
  """`parallel` within chunks, `recurrent` from chunk to chunk."""
  return chunks.by_chunk(_chunk, inputs)


def _chunk(q, k, v, g, *, mask):
  """A chunk as a map of the state before it."""
  decay = chunks.segment_sums(g)
  D = chunks.masked_exp(decay, mask.causal)
  since_start = jnp.exp(jnp.cumsum(g, axis=-1)) * mask.from_state
  to_end = jnp.exp(decay[..., -1, :]) * mask.to_state

  scores = chunks.product("...ik,...jk->...ij", q, k, like=v) * D
  return chunks.Affine(
    out=chunks.product("...ij,...jv->...iv", scores, v, like=v),
    reads=since_start[..., None] * q,
    keeps=jnp.exp(jnp.sum(g, axis=-1, keepdims=True)) * mask.keeps,
    writes=chunks.product("...jk,...jv->...kv", to_end[..., None] * k, v, like=v),
  )


IMPLEMENTATIONS = {
  "pallas_tpu": chunks.by_kernel(kernel, "BTH", backend="tpu"),
  "pallas_gpu": chunks.by_kernel(kernel, "BTH", backend="gpu"),
  "chunked": Form(chunked),
  "parallel": Form(parallel),
  "associative": Form(associative),
  "recurrent": Form(recurrent),
}
