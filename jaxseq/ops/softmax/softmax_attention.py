"""Softmax attention (Vaswani et al. 2017, arXiv:1706.03762, eq. 1).

    o_t = sum_s p_ts v_s,    p_ts = exp(q_t . k_s) / sum_r exp(q_t . k_r)

over the keys s that token t may see: those of its own document, not later than itself
if causal, and less than `window` tokens back if there is one. Query heads share
key-value heads in groups (Ainslie et al. 2023, arXiv:2305.13245). The blockwise form
keeps a running maximum and sum over blocks of keys (Milakov & Gimelshein 2018,
arXiv:1805.02867; Rabe & Staats 2021, arXiv:2112.05682), so that no T x S array exists.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import blocks, checks, chunks, dispatch, segments
from jaxseq.ops.dispatch import Form
from jaxseq.ops.softmax import fused_attention, kv_cache

__all__ = ["IMPLEMENTATIONS", "Inputs", "softmax_attention"]

BLOCK_SIZE = 512  # Queries, and keys: 1 MB of float32 scores a head.


class Inputs(NamedTuple):
  """The arguments of attention, as its forms take them.

  Attributes:
    q: Queries, scaled.
    k: Keys: those of the cache, if there is one, before those of the call; for a single
      token those of the cache with it.
    v: Values, likewise.
    q_position: Place of each query in its document.
    k_position: Place of each key.
    q_document: Number of the document in its row, -1 at padding.
    k_document: Likewise, -1 at empty slots of the cache too.
    packed: Whether there were `segment_ids`.
    cached: Number of keys that come from the cache.
    causal: Whether later keys are hidden.
    window: Tokens that a query sees, itself included; None is all.
  """

  q: Float[Array, "B T H K"]
  k: Float[Array, "B S G K"]
  v: Float[Array, "B S G V"]
  q_position: Int[Array, "B T"]
  k_position: Int[Array, "B S"]
  q_document: Int[Array, "B T"]
  k_document: Int[Array, "B S"]
  packed: bool
  cached: int
  causal: bool
  window: int | None


def softmax_attention(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B S G K"],
  v: Float[Array, "B S G V"],
  *,
  causal: bool = True,
  window: int | None = None,
  initial_state: kv_cache.KVCache | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H V"], kv_cache.KVCache | None]:
  """Averages values by how well their keys fit each query.

  Args:
    q: Queries.
    k: Keys; G divides H. S is T unless neither causal, segments nor a state is given.
    v: Values.
    causal: Whether a token sees no later one.
    window: Number of tokens that a token sees, itself included. None is all.
    initial_state: Keys and values before the first token. With `window` it must hold
      at least that many; without, outputs past its size are NaN, as tokens that they
      should see are gone.
    segment_ids: Packed documents; see `ops.segments`.
    scale: Of the queries. K^-1/2 if None.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `v`, zero at padding, and the state with the new tokens, or
    None if none was given.

  Raises:
    ValueError: If shapes or options do not fit or `implementation` is unknown.
    NotImplementedError: If the implementation named cannot take this call.
  """
  inputs = _prepare(q, k, v, causal, window, initial_state, segment_ids, scale)
  after = None
  if initial_state is not None:
    after = kv_cache.append(initial_state, inputs.k, inputs.v, segment_ids)
    inputs = _with_cache(inputs, initial_state, after)
  T = q.shape[1]
  run = dispatch.select("softmax_attention", IMPLEMENTATIONS, implementation, T, inputs)
  o = run(inputs)
  if initial_state is not None and window is None:
    lost = inputs.q_position >= initial_state.k.shape[1]
    o = jnp.where(lost[..., None, None], jnp.nan, o)
  return segments.clear_padding(o, segment_ids).astype(v.dtype), after


def _prepare(q, k, v, causal, window, cache, segment_ids, scale) -> Inputs:
  """Checks the arguments and finds which token is where."""
  name = "softmax_attention"
  sizes = checks.check_shapes(
    name,
    q=(q, "B T H K"),
    k=(k, "B S G K"),
    v=(v, "B S G V"),
    segment_ids=(segment_ids, "B T"),
  )
  B, T, S, H, G, K = (sizes[letter] for letter in "BTSHGK")
  if H % G:
    raise ValueError(f"{name} needs key-value heads that divide {H} heads; got {G}")
  if window is not None and (window < 1 or not causal):
    raise ValueError(
      f"{name} needs causal and window >= 1; got causal={causal}, window={window}"
    )
  if S != T and (causal or segment_ids is not None or cache is not None):
    raise ValueError(f"{name} needs as many keys as queries, {T}, to align; got {S}")
  if cache is not None:
    _check_cache(name, cache, k, v, window)
  kind = jnp.promote_types(q.dtype, jnp.float32)
  q = (q.astype(kind) * (K**-0.5 if scale is None else scale)).astype(q.dtype)
  q, k, v = (segments.clear_padding(x, segment_ids) for x in (q, k, v))
  before = jnp.zeros(B, jnp.int32) if cache is None else cache.length
  q_position = segments.positions(segment_ids, before, (B, T))
  k_position = segments.positions(segment_ids, before, (B, S))
  q_document, k_document = jnp.zeros((B, T), jnp.int32), jnp.zeros((B, S), jnp.int32)
  if segment_ids is not None:
    parsed = segments.parse(segment_ids)
    q_document = k_document = jnp.where(parsed.valid, parsed.index, -1)
  return Inputs(
    q=q,
    k=k,
    v=v,
    q_position=q_position,
    k_position=k_position,
    q_document=q_document,
    k_document=k_document,
    packed=segment_ids is not None,
    cached=0,
    causal=causal,
    window=window,
  )


def _check_cache(name, cache, k, v, window):
  checks.check_shapes(
    name,
    k=(k, "B T G K"),
    v=(v, "B T G V"),
    **{
      "initial_state.k": (cache.k, "B M G K"),
      "initial_state.v": (cache.v, "B M G V"),
      "initial_state.length": (cache.length, "B"),
    },
  )
  slots = cache.k.shape[1]
  if window is not None and slots < window:
    raise ValueError(
      f"{name} needs a state of at least window = {window} slots; got {slots}"
    )


def _with_cache(inputs, before, after) -> Inputs:
  """Lets the queries see the cache too.

  A single token is already in the cache after it, which spares a decode step a copy of
  all keys: what it overwrote was out of its sight. Several tokens may overwrite what
  the first of them still see, so they are put beside the cache before them.
  """
  single = inputs.q.shape[1] == 1
  cache = after if single else before
  slots = cache.k.shape[1]
  position = kv_cache.slot_positions(cache.length, slots)
  keys = (cache.k, cache.v, position, jnp.where(position >= 0, 0, -1))
  own = (inputs.k, inputs.v, inputs.k_position, inputs.k_document)
  keys = tuple(a.astype(b.dtype) for a, b in zip(keys, own))
  if not single:
    keys = tuple(jnp.concatenate(pair, axis=1) for pair in zip(keys, own))
  k, v, position, document = keys
  return inputs._replace(
    k=k, v=v, k_position=position, k_document=document, cached=slots
  )


def _visible(inputs, q_position, k_position, q_document, k_document):
  """Which keys each query sees: [B, T, S]."""
  distance = q_position[:, :, None] - k_position[:, None]
  see = (q_document[:, :, None] == k_document[:, None]) & (k_document >= 0)[:, None]
  if inputs.causal:
    see &= distance >= 0
  if inputs.window is not None:
    see &= distance < inputs.window
  return see


def _scores(q, k):
  """Products of grouped queries and keys: [B, G, H / G, T, S] in float32."""
  B, T, H, K = q.shape
  q = q.reshape(B, T, k.shape[2], -1, K)
  return chunks.product("btgik,bsgk->bgits", q, k, like=q)


def recurrent(inputs):
  """The definition: one query at a time over all keys."""

  def one(token):
    q, position, document = (x[:, None] for x in token)
    return parallel(inputs._replace(q=q, q_position=position, q_document=document))

  tokens = (inputs.q, inputs.q_position, inputs.q_document)
  o = jax.lax.map(one, jax.tree.map(lambda x: x.swapaxes(0, 1), tokens))
  return o[:, :, 0].swapaxes(0, 1)


def parallel(inputs):
  """All T x S scores at once."""
  see = _visible(
    inputs,
    inputs.q_position,
    inputs.k_position,
    inputs.q_document,
    inputs.k_document,
  )
  see = see[:, None, None]
  scores = jnp.where(see, _scores(inputs.q, inputs.k), -jnp.inf)
  highest = jnp.max(scores, axis=-1, keepdims=True)
  highest = jax.lax.stop_gradient(jnp.where(jnp.isfinite(highest), highest, 0))
  weights = jnp.exp(scores - highest)
  total = jnp.sum(weights, axis=-1, keepdims=True)
  weights = weights / jnp.where(total == 0, 1, total)
  o = chunks.product("bgits,bsgv->btgiv", weights, inputs.v, like=inputs.v)
  return o.reshape(*inputs.q.shape[:3], -1)


def blockwise(inputs):
  """Block by block of queries and keys; the backward pass makes each block again."""
  B, T, H, _ = inputs.q.shape
  S, G, V = inputs.v.shape[1:]
  kind = jnp.promote_types(inputs.v.dtype, jnp.float32)
  cut = lambda *xs: blocks.split(xs, BLOCK_SIZE)
  # Padded keys belong to no document; padded queries may see what they like.
  documents = blocks.split(inputs.k_document, BLOCK_SIZE, fill=-1)
  keys = (*cut(inputs.k, inputs.v, inputs.k_position), documents)

  @jax.checkpoint
  def queries(_, block):
    row, q, position, document = block

    def update(carry, key_block):
      highest, total, o = carry
      k, v, k_position, k_document = key_block
      see = _visible(inputs, position, k_position, document, k_document)[:, None, None]
      scores = jnp.where(see, _scores(q, k), -jnp.inf)
      new = jnp.maximum(highest, jax.lax.stop_gradient(scores.max(axis=-1)))
      finite = jnp.where(jnp.isfinite(new), new, 0)
      weights = jnp.exp(scores - finite[..., None])
      fade = jnp.exp(highest - finite)
      o = o * fade[..., None]
      o += chunks.product("bgits,bsgv->bgitv", weights, v, like=v)
      return new, total * fade + weights.sum(axis=-1), o

    def step(carry, numbered):
      column, key_block = numbered
      run = lambda: update(carry, key_block)
      return jax.lax.cond(_may_see(inputs, row, column), run, lambda: carry), None

    shape = (B, G, H // G, q.shape[1])
    carry = (jnp.full(shape, -jnp.inf, kind), jnp.zeros(shape, kind))
    carry = (*carry, jnp.zeros((*shape, V), kind))
    columns = jnp.arange(keys[0].shape[0])
    (_, total, o), _ = jax.lax.scan(step, carry, (columns, keys))
    o = o / jnp.where(total == 0, 1, total)[..., None]
    return None, jnp.moveaxis(o, 3, 1).reshape(B, -1, H, V).astype(inputs.v.dtype)

  cut_queries = cut(inputs.q, inputs.q_position, inputs.q_document)
  rows = jnp.arange(cut_queries[0].shape[0])
  _, o = jax.lax.scan(queries, None, (rows, *cut_queries))
  return blocks.join(o, T)


def _may_see(inputs, row, column):
  """Whether a block of queries can see anything of a block of keys, by their order."""
  if not inputs.causal:
    return True
  first_key = column * BLOCK_SIZE - inputs.cached
  see = first_key < (row + 1) * BLOCK_SIZE
  if inputs.window is not None and not inputs.cached:
    see &= first_key + BLOCK_SIZE > row * BLOCK_SIZE - inputs.window + 1
  return see


def _several_blocks(inputs):
  return inputs.q.shape[1] * inputs.k.shape[1] > BLOCK_SIZE**2


IMPLEMENTATIONS = {
  "cudnn": Form(fused_attention.cudnn, fused_attention.cudnn_refusal),
  "splash": Form(fused_attention.splash, fused_attention.splash_refusal),
  "parallel": Form(parallel, slow=_several_blocks),
  "blockwise": Form(blockwise),
  "recurrent": Form(recurrent),
}
