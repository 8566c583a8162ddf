"""The time mixing of RWKV-5 and 6 (Peng et al. 2024, arXiv:2404.05892, eq. 18 and 19).

    o_t = (S_{t-1} + diag(u) k_t v_t^T)^T r_t
    S_t = diag(exp(g_t)) S_{t-1} + k_t v_t^T                        state [K, V]

A diagonal decay that is read before the token is written and decayed; the token itself
counts with a bonus u of its own. Token i finds of token j < i what the decays between
both leave, exp(g_{j+1} + ... + g_{i-1}).
"""

import jax
import jax.numpy as jnp
from jaxseq_kernels import diagonal_decay as kernel
from jaxtyping import Array, Float, Int

from jaxseq.ops import checks, chunks, dispatch
from jaxseq.ops.dispatch import Form

__all__ = ["IMPLEMENTATIONS", "time_mix"]


def time_mix(
  r: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  log_decay: Float[Array, "B T H K"],
  bonus: Float[Array, "H K"],
  *,
  initial_state: Float[Array, "B H K V"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
  """Reads the past, fading by channel, and the present at its own weight.

  Args:
    r: Receptances, the queries.
    k: Keys.
    v: Values.
    log_decay: Natural log g of the share of each row of the state kept at each token,
      <= 0. Not checked.
    bonus: Weight u of the token itself, where those before have what their decays
      leave.
    initial_state: State before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    scale: Of the receptances. K^-1/2 if None; RWKV has 1.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `v`, and the last state in float32.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  r, k, v = chunks.share_heads(r, k, v)
  checks.check_shapes("time_mix", r=(r, "B T H K"), bonus=(bonus, "H K"))
  gates = dict(log_decay=(log_decay, "B T H K"))
  inputs = chunks.prepare("time_mix", r, k, v, gates, initial_state, segment_ids, scale)
  T = r.shape[1]
  run = dispatch.select("time_mix", IMPLEMENTATIONS, implementation, T, inputs, bonus)
  return run(inputs, bonus.astype(inputs.state.dtype))


def recurrent(inputs, bonus):
  """The definition."""
  r, k, v, (g,), S, valid, starts, _ = inputs

  def step(S, token):
    r, k, v, g, start = token
    S = jnp.where(start[:, None, None, None], 0, S)
    write = k[..., None] * v[..., None, :]
    seen = S + bonus[..., None] * write
    o = jnp.einsum("bhk,bhkv->bhv", r, seen, precision="highest")
    return jnp.exp(g)[..., None] * S + write, o

  tokens = (*(x.astype(S.dtype) for x in (r, k, v)), g, starts)
  S, o = jax.lax.scan(step, S, jax.tree.map(lambda x: x.swapaxes(0, 1), tokens))
  return jnp.where(valid[..., None, None], o.swapaxes(0, 1), 0).astype(v.dtype), S


def chunked(inputs, bonus):
  """Matrix products within chunks, the state from chunk to chunk."""
  past, S = chunks.by_chunk(_chunk, inputs)
  r, k, v = (x.astype(S.dtype) for x in inputs[:3])
  present = jnp.sum(bonus * r * k, axis=-1, keepdims=True) * v
  return (past + present).astype(inputs.v.dtype), S


def _chunk(r, k, v, g, *, mask):
  """A chunk as a map of the state before it: row i - 1 of a diagonal decay is row i."""
  later = jnp.concatenate([r[..., 1:, :], jnp.zeros_like(r[..., :1, :])], axis=-2)
  A, since, until = chunks.decayed_scores(
    later[..., None, :, :], k[..., None, :, :], g, like=v
  )
  A = jnp.where(mask.causal, chunks.row_before(A[..., 0, 0, :, :]), 0)
  before = jnp.where(mask.from_state[..., None], jnp.exp(chunks.row_before(since)), 0)
  until = jnp.where(mask.to_state[..., None], jnp.exp(until), 0)
  return chunks.Affine(
    out=chunks.product("...ij,...jv->...iv", A, v, like=v),
    reads=before * r,
    keeps=jnp.exp(jnp.sum(g, axis=-2)) * mask.keeps,
    writes=chunks.product("...jk,...jv->...kv", until * k, v, like=v),
  )


IMPLEMENTATIONS = {
  "pallas_tpu": chunks.by_kernel(kernel, "BTHK", backend="tpu", others=("HK",)),
  "pallas_gpu": chunks.by_kernel(kernel, "BTHK", backend="gpu", others=("HK",)),
  "chunked": Form(chunked),
  "recurrent": Form(recurrent),
}
