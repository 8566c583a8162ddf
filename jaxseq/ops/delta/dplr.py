"""The generalised delta rule: a transition that is diagonal plus low rank.

    S_t = (diag(exp(g_t)) + a_t b_t^T) S_{t-1} + k_t v_t^T
    o_t = S_t^T q_t                                          state [K, V]

(RWKV-7, Peng et al. 2025, arXiv:2503.14456, sec. 4; `iplr` is the form without decays.)
RWKV-7 writes the transpose with state [V, K], S_t = S_{t-1} (diag(w_t) + a b^T) +
v_t k_t^T: there a = -k^ reads the state and b = a_t * k^ writes it, where here b reads
and a writes.

b_t reads the state before the decay. Let z_t = S_{t-1}^T b_t; within a chunk

    (I - M) Z = N V + (D_0 * B) S_0
    M_ij = sum_c b_ic a_jc exp(g_{j+1,c} + ... + g_{i-1,c}),    j < i

and N likewise with k_j for a_j: the UT transform for general a and b, its scores made
by `chunks.decayed_scores`, so that no exponent is positive at any decay.
"""

import jax.numpy as jnp
from jaxseq_kernels import dplr as kernel
from jaxtyping import Array, Float, Int

from jaxseq.ops import chunks, dispatch
from jaxseq.ops.delta import triangular
from jaxseq.ops.dispatch import Form

__all__ = ["IMPLEMENTATIONS", "dplr", "iplr"]


def dplr(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  a: Float[Array, "B T H K"],
  b: Float[Array, "B T H K"],
  log_decay: Float[Array, "B T H K"],
  *,
  initial_state: Float[Array, "B H K V"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
  """Moves, in a memory that fades by channel, what one vector reads to another.

  Args:
    q: Queries.
    k: Keys.
    v: Values.
    a: Where that which `b` reads is added to the state.
    b: What is read of the state before the token. The state grows unless
      diag(exp(g)) + a b^T shrinks. Not checked.
    log_decay: Natural log g of the share of each row of the state kept at each token,
      <= 0. Not checked.
    initial_state: State before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    scale: Of the queries. K^-1/2 if None; RWKV-7 has 1.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `v`, and the last state in float32.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  gates = dict(a=(a, "B T H K"), b=(b, "B T H K"), log_decay=(log_decay, "B T H K"))
  inputs = chunks.prepare("dplr", q, k, v, gates, initial_state, segment_ids, scale)
  run = dispatch.select("dplr", IMPLEMENTATIONS, implementation, q.shape[1], inputs)
  return run(inputs)


def iplr(q, k, v, a, b, **options):
  """`dplr` without decays: S_t = (I + a_t b_t^T) S_{t-1} + k_t v_t^T.

  Args:
    q: Queries.
    k: Keys.
    v: Values.
    a: As in `dplr`.
    b: As in `dplr`.
    **options: Those of `dplr`.

  Returns:
    Outputs in the dtype of `v`, and the last state in float32.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  return dplr(q, k, v, a, b, jnp.zeros_like(b), **options)


def recurrent(inputs):
  """The definition."""

  def update(S, k, v, a, b, g):
    z = jnp.einsum("bhk,bhkv->bhv", b, S, precision="highest")
    write = a[..., None] * z[..., None, :] + k[..., None] * v[..., None, :]
    return jnp.exp(g)[..., None] * S + write

  return chunks.by_token(update, inputs)


def chunked(inputs):
  """The UT transform within chunks, `recurrent` from chunk to chunk."""
  return chunks.by_chunk(_chunk, inputs)


def _chunk(q, k, v, a, b, g, *, mask):
  """A chunk as a map of the state before it: Z is Z_0 + W S_0."""
  # What b_i reads has not yet faded at i: its scores are those of row i - 1.
  later = jnp.concatenate([b[..., 1:, :], jnp.zeros_like(b[..., :1, :])], axis=-2)
  A, since, until = chunks.decayed_scores(
    jnp.stack(jnp.broadcast_arrays(q, later), axis=-3),
    jnp.stack(jnp.broadcast_arrays(k, a), axis=-3),
    g,
    like=v,
  )
  seen = lambda A: jnp.where(mask.causal, A, 0)
  q_k, q_a = seen(A[..., 0, 0, :, :]), seen(A[..., 0, 1, :, :])
  b_k, b_a = (seen(chunks.row_before(A[..., 1, s, :, :])) for s in (0, 1))
  begins = lambda x: jnp.where(mask.from_state[..., None], jnp.exp(x), 0)
  until = jnp.where(mask.to_state[..., None], jnp.exp(until), 0)

  known = chunks.product("...ij,...jv->...iv", b_k, v, like=v)
  right = jnp.concatenate([known, begins(chunks.row_before(since)) * b], axis=-1)
  Z, W = jnp.split(triangular.solve(-b_a, right, like=v), [v.shape[-1]], axis=-1)
  return chunks.Affine(
    out=chunks.product("...ij,...jv->...iv", q_k, v, like=v)
    + chunks.product("...ij,...jv->...iv", q_a, Z, like=v),
    reads=begins(since) * q + chunks.product("...ij,...jk->...ik", q_a, W, like=v),
    keeps=jnp.exp(jnp.sum(g, axis=-2)) * mask.keeps,
    writes=chunks.product("...jk,...jv->...kv", until * k, v, like=v)
    + chunks.product("...jk,...jv->...kv", until * a, Z, like=v),
    erase=-until * a,
    erase_reads=W,
  )


IMPLEMENTATIONS = {
  "pallas_tpu": chunks.by_kernel(kernel, "BTHK", "BTHK", "BTHK", backend="tpu"),
  "pallas_gpu": chunks.by_kernel(kernel, "BTHK", "BTHK", "BTHK", backend="gpu"),
  "chunked": Form(chunked),
  "pallas_gpu_step": chunks.by_step("a", "b", "log_decay"),
  "recurrent": Form(recurrent),
}
