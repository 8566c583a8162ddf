"""Linear attention over whole documents (Katharopoulos et al. 2020, arXiv:2006.16236).

    S = sum_j k_j v_j^T,   z = sum_j k_j        over the document of token i
    o_i = S^T q_i          or, normalised,      o_i = S^T q_i / max(z^T q_i, epsilon)

That is eq. 5 and 6. Of packed documents it is the scattered linear attention of
ScatterFormer (He et al. 2024, arXiv:2401.00912, sec. 3.2), whose documents are windows
of unlike numbers of voxels: O(T), with no padding. Documents are read from both ends:
chunk by chunk, what stands left and what stands right of a chunk.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import chunks, dispatch
from jaxseq.ops.dispatch import Form
from jaxseq.ops.linear import bidirectional

__all__ = ["IMPLEMENTATIONS", "noncausal_linear_attention"]


def noncausal_linear_attention(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  *,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  normalized: bool = False,
  epsilon: float = 1e-6,
  implementation: str = "auto",
) -> Float[Array, "B T H V"]:
  """Reads the document's sum, or mean, of values weighted by products of features.

  Args:
    q: Queries, or features of them.
    k: Keys, or features of them.
    v: Values.
    segment_ids: Packed documents; see `ops.segments`.
    scale: Of the queries. K^-1/2 if None.
    normalized: Whether the weights of a query are divided by their sum.
    epsilon: The least sum.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `v`. There is no state: the whole document is read.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
    NotImplementedError: If the implementation named cannot take this call.
  """
  name = "noncausal_linear_attention"
  kind = v.dtype
  if normalized:
    v = jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1)
  inputs = chunks.prepare(name, q, k, v, {}, None, segment_ids, scale)
  packed = segment_ids is not None
  args = (inputs, packed)
  run = dispatch.select(name, IMPLEMENTATIONS, implementation, q.shape[1], *args)
  o = run(*args)
  if not normalized:
    return o
  o = o.astype(inputs.state.dtype)
  total = jnp.where(inputs.valid[..., None, None], o[..., -1:], 1)
  return (o[..., :-1] / jnp.maximum(total, epsilon)).astype(kind)


def recurrent(inputs, packed):
  """The definition: up to each token from the left, and after it from the right."""
  del packed
  update = lambda S, k, v: S + k[..., None] * v[..., None, :]
  left, _ = chunks.by_token(update, inputs)
  last = bidirectional.ends(inputs.starts).at[:, -1].set(True)
  after = lambda x: jnp.where(last[..., None, None], 0, jnp.roll(x, -1, axis=1))
  others = inputs._replace(k=after(inputs.k), v=after(inputs.v))
  right, _ = chunks.by_token(update, bidirectional.reverse(others))
  return left + jnp.flip(right, axis=1)


def summed(inputs, packed):
  """Two products, for rows of one document."""
  del packed
  q, k, v = inputs[:3]
  S = chunks.product("bthk,bthv->bhkv", k, v, like=v)
  return chunks.product("bthk,bhkv->bthv", q, S, like=v).astype(v.dtype)


def _packed(inputs, packed):
  return "it needs rows of one document, not segment_ids" if packed else None


def parallel(inputs, packed):
  """One chunk of all tokens: T x T scores, and no state."""
  del packed
  return chunks.by_chunk(_both, inputs, inputs.q.shape[1])[0]


def chunked(inputs, packed):
  """`parallel` within chunks; one scan over the chunks in each direction."""
  del packed
  here_and_left, _ = chunks.by_chunk(_both, inputs)
  return here_and_left + bidirectional.from_right(_map_from_right, inputs)


def _both(q, k, v, *, mask):
  """All pairs within the chunk, and a map of the state from the left."""
  same = mask.causal | mask.causal.swapaxes(-2, -1)
  A = jnp.where(same, chunks.product("...ik,...jk->...ij", q, k, like=v), 0)
  seen = jnp.where(mask.to_state[..., None], k, 0)
  return chunks.Affine(
    out=chunks.product("...ij,...jv->...iv", A, v, like=v),
    reads=jnp.where(mask.from_state[..., None], q, 0),
    keeps=mask.keeps,
    writes=chunks.product("...jk,...jv->...kv", seen, v, like=v),
  )


def _map_from_right(q, k, v, *, sees, seen, keeps):
  """What a chunk reads, keeps and writes of the state from the right."""
  k = jnp.where(seen, k, 0)
  writes = chunks.product("...jk,...jv->...kv", k, v, like=v)
  return jnp.where(sees, q, 0), keeps, writes


IMPLEMENTATIONS = {
  "summed": Form(summed, _packed),
  "chunked": Form(chunked),
  "parallel": Form(parallel),
  "recurrent": Form(recurrent),
}
