"""Linear attention with one decay of either sign a head and token.

    S_t = a_t S_{t-1} + k_t v_t^T,    o_t = S_t^T q_t,    a_t in [-1, 1]

The scalar decay whose factor may be negative, as state tracking needs (Grazzi et al.
2024, arXiv:2411.12537, sec. 4). No logarithm is taken: the factor from token j to i is
the product of those between, found as `chunks.decayed_scores` finds sums.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import chunks, dispatch
from jaxseq.ops.dispatch import Form

__all__ = ["IMPLEMENTATIONS", "signed_scalar_decay"]


def signed_scalar_decay(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  decay: Float[Array, "B T H"],
  *,
  initial_state: Float[Array, "B H K V"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
  """Reads a sum of key-value products that may change its sign at each token.

  Args:
    q: Queries.
    k: Keys.
    v: Values.
    decay: What the state is multiplied by at each token, in [-1, 1]. Not checked.
    initial_state: State before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    scale: Of the queries. K^-1/2 if None.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `v`, and the last state in float32.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  gates = dict(decay=(decay, "B T H"))
  inputs = chunks.prepare(
    "signed_scalar_decay", q, k, v, gates, initial_state, segment_ids, scale
  )
  T = q.shape[1]
  forms = IMPLEMENTATIONS
  run = dispatch.select("signed_scalar_decay", forms, implementation, T, inputs)
  return run(inputs)


def recurrent(inputs):
  """The definition."""
  a = _factors(inputs)

  def update(S, k, v, a):
    return a[..., None, None] * S + k[..., None] * v[..., None, :]

  return chunks.by_token(update, inputs._replace(gates=(a,)))


def _factors(inputs):
  """Padding keeps the state."""
  return jnp.where(inputs.valid[..., None], inputs.gates[0], 1)


def associative(inputs):
  """The updates composed by a tree."""
  return chunks.by_tree(_factors(inputs)[..., None], inputs)


def parallel(inputs):
  """One chunk of all tokens: T x T scores."""
  size = 1 << (inputs.q.shape[1] - 1).bit_length()
  return chunks.by_chunk(_chunk, inputs, size=size)


def chunked(inputs):
  """`parallel` within chunks, `recurrent` from chunk to chunk."""
  return chunks.by_chunk(_chunk, inputs)


def _chunk(q, k, v, a, *, mask):
  """A chunk as a map of the state before it."""
  a = jnp.where(mask.valid, a, 1)[..., None]  # One channel.
  one = jnp.ones_like(a)[..., None, :, :]
  D, since, until = chunks.decayed_scores(one, one, a, like=a, shares=chunks.FACTORS)
  D = jnp.where(mask.causal, D[..., 0, 0, :, :], 0)
  scores = chunks.product("...ik,...jk->...ij", q, k, like=v) * D
  late = jnp.where(mask.to_state[..., None], until, 0) * k
  return chunks.Affine(
    out=chunks.product("...ij,...jv->...iv", scores, v, like=v),
    reads=jnp.where(mask.from_state[..., None], since, 0) * q,
    keeps=since[..., -1, :] * mask.keeps,
    writes=chunks.product("...jk,...jv->...kv", late, v, like=v),
  )


IMPLEMENTATIONS = {
  "chunked": Form(chunked),
  "parallel": Form(parallel),
  "associative": Form(associative),
  "recurrent": Form(recurrent),
}
