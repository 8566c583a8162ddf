"""Normalised linear attention with relative positions, by FFT (Luo et al. 2021).

    o_i = sum_j c_{i-j} (q_i^T k_j) v_j / max(sum_j c_{i-j} q_i^T k_j, epsilon)
    c_d = exp(b_d - max b)             j <= i; b is learned, a number for each distance

(arXiv:2106.12566.) As c does not factorise there is no state of fixed size:
the state is the cache of all keys and values. But a sum over j is a product with a
Toeplitz matrix, the same for each of the channels of k_j v_j^T, and so a convolution.
That takes O(T log T) and the memory of T states; where T is short, T^2 scores of blocks
of queries take less.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import blocks, checks, chunks, dispatch, fourier, segments
from jaxseq.ops.dispatch import Form
from jaxseq.ops.softmax import kv_cache

__all__ = ["IMPLEMENTATIONS", "toeplitz_attention"]

BLOCK_SIZE = 128  # Queries: with 8,192 keys 4 MB of float32 scores a head.


class Inputs(NamedTuple):
  """The arguments, as the forms take them; the cache before the keys of the call.

  Attributes:
    q: Queries, scaled.
    k: Keys.
    v: Values, and a channel of ones.
    weights: c, by head and distance.
    q_position: Place of each query in its document.
    k_position: Place of each key.
    q_document: Number of the document in its row.
    k_document: Likewise, -1 at padding and at empty slots of the cache.
    in_order: Whether keys and queries are the tokens of one document a row.
  """

  q: Float[Array, "B T H K"]
  k: Float[Array, "B S H K"]
  v: Float[Array, "B S H V+1"]
  weights: Float[Array, "H M"]
  q_position: Int[Array, "B T"]
  k_position: Int[Array, "B S"]
  q_document: Int[Array, "B T"]
  k_document: Int[Array, "B S"]
  in_order: bool


def toeplitz_attention(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  log_weights: Float[Array, "H M"],
  *,
  initial_state: kv_cache.KVCache | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  epsilon: float = 1e-6,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H V"], kv_cache.KVCache | None]:
  """Reads a mean of the values so far, weighted by features and by distance.

  Args:
    q: Features of the queries.
    k: Features of the keys.
    v: Values.
    log_weights: Natural log b of the weight of the tokens 0, 1, .. M - 1 places back.
      T may not be more than M.
    initial_state: Keys and values before the first token. Outputs of tokens that have
      more than M, or than its slots, before them are NaN.
    segment_ids: Packed documents; see `ops.segments`.
    scale: Of the queries. K^-1/2 if None. Only the weight of `epsilon` depends on it.
    epsilon: The least denominator. The error of the form "fft" is a share of the
      largest of a row's sums, so that much smaller ones are lost to it.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `v`, zero at padding, and the state with the new tokens, or
    None if none was given.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
    NotImplementedError: If the implementation named cannot take this call.
  """
  name = "toeplitz_attention"
  sizes = checks.check_shapes(
    name,
    q=(q, "B T H K"),
    k=(k, "B T H K"),
    v=(v, "B T H V"),
    log_weights=(log_weights, "H M"),
    segment_ids=(segment_ids, "B T"),
  )
  T, M = sizes["T"], sizes["M"]
  if T > M:
    raise ValueError(f"{name} needs log_weights of M >= T = {T} distances; got {M}")
  ones = jnp.ones_like(v[..., :1])
  arrays = chunks.prepare(
    name, q, k, jnp.concatenate([v, ones], axis=-1), {}, None, segment_ids, scale
  )
  kind = arrays.state.dtype
  b = log_weights.astype(kind)
  length = jnp.zeros(sizes["B"], jnp.int32)
  length = length if initial_state is None else initial_state.length
  position = segments.positions(segment_ids, length, q.shape[:2])
  document = jnp.zeros_like(position)
  if segment_ids is not None:
    document = segments.parse(segment_ids).index
  inputs = Inputs(
    q=arrays.q,
    k=arrays.k,
    v=arrays.v,
    weights=jnp.exp(b - jax.lax.stop_gradient(jnp.max(b, axis=1, keepdims=True))),
    q_position=position,
    k_position=position,
    q_document=document,
    k_document=jnp.where(arrays.valid, document, -1),
    in_order=segment_ids is None and initial_state is None,
  )
  after = None
  if initial_state is not None:
    after = kv_cache.append(initial_state, arrays.k, v, segment_ids)
    inputs = _with_cache(inputs, initial_state)
  run = dispatch.select(name, IMPLEMENTATIONS, implementation, T, inputs)
  sums = run(inputs)
  total = jnp.where(arrays.valid[..., None, None], sums[..., -1:], 1)
  o = sums[..., :-1] / jnp.maximum(total, epsilon)
  if initial_state is not None:
    lost = position >= min(M, initial_state.k.shape[1])
    o = jnp.where(lost[..., None, None], jnp.nan, o)
  return segments.clear_padding(o, segment_ids).astype(v.dtype), after


def _with_cache(inputs, cache):
  """Puts the keys of the cache before those of the call."""
  position = kv_cache.slot_positions(cache.length, cache.k.shape[1])
  held = position >= 0
  values = jnp.concatenate([cache.v, jnp.ones_like(cache.v[..., :1])], axis=-1)
  before = (cache.k, values, position, jnp.where(held, 0, -1))
  own = (inputs.k, inputs.v, inputs.k_position, inputs.k_document)
  k, v, position, document = (
    jnp.concatenate([a.astype(b.dtype), b], axis=1) for a, b in zip(before, own)
  )
  return inputs._replace(k=k, v=v, k_position=position, k_document=document)


def recurrent(inputs):
  """The definition: one query at a time over all keys."""

  def one(query):
    q, position, document = (x[:, None] for x in query)
    return _all_pairs(inputs, q, position, document)[:, 0]

  queries = (inputs.q, inputs.q_position, inputs.q_document)
  sums = jax.lax.map(one, jax.tree.map(lambda x: x.swapaxes(0, 1), queries))
  return sums.swapaxes(0, 1)


def blockwise(inputs):
  """Block by block of queries over all keys; the backward pass makes each again."""
  queries = (inputs.q, inputs.q_position, inputs.q_document)
  T = inputs.q.shape[1]
  size = min(BLOCK_SIZE, T)
  block = jax.checkpoint(lambda queries: _all_pairs(inputs, *queries))
  return blocks.join(jax.lax.map(block, blocks.split(queries, size)), T)


def _all_pairs(inputs, q, position, document):
  """The sums of some queries, by their scores with all keys."""
  distance = position[:, :, None] - inputs.k_position[:, None]  # [B, T, S]
  see = (document[:, :, None] == inputs.k_document[:, None]) & (distance >= 0)
  last = inputs.weights.shape[1] - 1
  c = jnp.take(inputs.weights, jnp.clip(distance, 0, last), axis=1)  # [H, B, T, S]
  A = chunks.product("bthk,bshk->hbts", q, inputs.k, like=inputs.v)
  A = jnp.where(see, c * A, 0)
  return chunks.product("hbts,bshv->bthv", A, inputs.v, like=inputs.v)


def fft(inputs):
  """A convolution over time of k_j v_j^T with c, a head at a time."""
  kind = inputs.weights.dtype

  @jax.checkpoint
  def head(arrays):
    q, k, v, c = arrays  # [B, T, K], [B, T, K], [B, T, V + 1], [M]
    writes = (k[..., None] * v[..., None, :]).astype(kind)
    S = fourier.causal(writes, c[:, None, None])
    return jnp.einsum("btk,btkv->btv", q.astype(kind), S, precision="highest")

  by_head = lambda x: jnp.moveaxis(x, 2, 0)
  arrays = (by_head(inputs.q), by_head(inputs.k), by_head(inputs.v), inputs.weights)
  return jnp.moveaxis(jax.lax.map(head, arrays), 0, 2)


def _not_in_order(inputs):
  return None if inputs.in_order else "it takes one document a row and no state"


def _short(inputs):
  """Transforms take 10 T log2(2T) K V operations, all pairs 2 T^2 (K + V)."""
  T, K, V = inputs.q.shape[1], inputs.q.shape[3], inputs.v.shape[3]
  return T * (K + V) < 5 * math.log2(2 * T) * K * V


IMPLEMENTATIONS = {
  "fft": Form(fft, _not_in_order, _short),
  "blockwise": Form(blockwise),
  "recurrent": Form(recurrent),
}
