"""Attention with a bias for each distance, and with other functions than softmax.

    o_t = sum_s f(c q_t . k_s / tau_t + b_{t-s}) v_s

over the keys s that token t may see: those of its own document and chunk, not later
than itself if causal. f is softmax over these s, with tau = 1; or of each score alone,
with tau_t the number of these s (Mega, Ma et al. 2022, arXiv:2209.10655, sec. 3.2):

    relu2:    max(x, 0)^2                            (Primer, So et al. 2021)
    laplace:  (1 + erf((x - mu) / (sigma sqrt(2)))) / 2,  mu^2 = 1/2, sigma^2 = 1/(4 pi)

Laplace is close to relu2, with a bounded range and slope. Chunks have C tokens each, of
the document's own count, and see nothing of one another, so that the cost is linear.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import blocks, checks, chunks, dispatch, segments
from jaxseq.ops.dispatch import Form
from jaxseq.ops.softmax import kv_cache

__all__ = ["ACTIVATIONS", "IMPLEMENTATIONS", "relative_attention"]

BLOCK_SIZE = 256  # Queries whose scores exist at one time.


def _laplace(x):
  return 0.5 * (1 + jax.lax.erf((x - 0.5**0.5) * math.sqrt(2 * math.pi)))


# Of each score alone; softmax is that of all scores.
ACTIVATIONS = {
  "softmax": None,
  "laplace": _laplace,
  "relu2": lambda x: jnp.square(jax.nn.relu(x)),
}


class Inputs(NamedTuple):
  """The arguments of attention, as its forms take them.

  Attributes:
    q: Queries, scaled.
    k: Keys: those of the cache, if there is one, before those of the call; for a single
      token those of the cache with it.
    v: Values, likewise.
    bias: Of the distances from `nearest` on.
    q_place: Where each query is; the distance to a key is the difference.
    k_place: Where each key is.
    q_group: Numbers of each query's document and chunk, -1 at padding.
    k_group: Likewise, -1 at empty slots of the cache too.
    nearest: The distance of the first bias: 0 if causal, else negative.
    cached: Number of keys that come from the cache.
    activation: A key of `ACTIVATIONS`.
    chunk_size: Or None.
  """

  q: Float[Array, "B T H K"]
  k: Float[Array, "B S H K"]
  v: Float[Array, "B S H V"]
  bias: Float[Array, "H L"]
  q_place: Int[Array, "#B T"]
  k_place: Int[Array, "#B S"]
  q_group: Int[Array, "B T 2"]
  k_group: Int[Array, "B S 2"]
  nearest: int
  cached: int
  activation: str
  chunk_size: int | None


def relative_attention(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  bias: Float[Array, "H L"],
  *,
  activation: str = "softmax",
  causal: bool = True,
  chunk_size: int | None = None,
  initial_state: kv_cache.KVCache | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H V"], kv_cache.KVCache | None]:
  """Adds up values by how well their keys fit each query, and by their distance.

  Args:
    q: Queries.
    k: Keys.
    v: Values.
    bias: Added to the scores. If causal, of the keys 0, 1, ... L - 1 tokens back; else
      L is odd and the middle one is that of the token itself, those before it are of
      later keys.
    activation: A key of `ACTIVATIONS`.
    causal: Whether a token sees no later one.
    chunk_size: Tokens C of a chunk. None is one chunk.
    initial_state: Keys and values before the first token; needs causal. With chunks it
      must hold at least C; without, outputs past its size are NaN, as tokens that they
      should see are gone.
    segment_ids: Packed documents; see `ops.segments`.
    scale: c. If None K^-1/2 with softmax, else 1.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `v`, zero at padding, and the state with the new tokens, or
    None if none was given.

  Raises:
    ValueError: If shapes or options do not fit or `implementation` is unknown.
    NotImplementedError: If the implementation named cannot take this call.
  """
  name = "relative_attention"
  if activation not in ACTIVATIONS:
    raise ValueError(
      f"{name} needs activation in {tuple(ACTIVATIONS)}; got {activation!r}"
    )
  cache = initial_state
  _check(name, q, k, v, bias, causal, chunk_size, cache, segment_ids)
  B, T, _, K = q.shape
  if scale is None:
    scale = K**-0.5 if activation == "softmax" else 1.0
  kind = jnp.promote_types(q.dtype, jnp.float32)
  q = (q.astype(kind) * scale).astype(q.dtype)
  q, k, v = (segments.clear_padding(x, segment_ids) for x in (q, k, v))
  length = jnp.zeros(B, jnp.int32) if cache is None else cache.length
  position = segments.positions(segment_ids, length, (B, T))
  document = jnp.zeros((B, T), jnp.int32)
  if segment_ids is not None:
    parsed = segments.parse(segment_ids)
    document = jnp.where(parsed.valid, parsed.index, -1)
  # Within a document distances in the row are those of positions: one row for all.
  place = jnp.arange(T)[None] if cache is None else position
  group = _group(document, position, chunk_size)
  inputs = Inputs(
    q=q,
    k=k,
    v=v,
    bias=bias.astype(kind),
    q_place=place,
    k_place=place,
    q_group=group,
    k_group=group,
    nearest=0 if causal else -(bias.shape[1] // 2),
    cached=0,
    activation=activation,
    chunk_size=chunk_size,
  )
  after = None
  if cache is not None:
    after = kv_cache.append(cache, k, v, segment_ids)
    inputs = _with_cache(inputs, cache, after)
  run = dispatch.select(name, IMPLEMENTATIONS, implementation, T, inputs)
  o = run(inputs)
  if cache is not None and chunk_size is None:
    lost = position >= cache.k.shape[1]
    o = jnp.where(lost[..., None, None], jnp.nan, o)
  return segments.clear_padding(o, segment_ids).astype(v.dtype), after


def _check(name, q, k, v, bias, causal, chunk_size, cache, segment_ids):
  sizes = checks.check_shapes(
    name,
    q=(q, "B T H K"),
    k=(k, "B T H K"),
    v=(v, "B T H V"),
    bias=(bias, "H L"),
    segment_ids=(segment_ids, "B T"),
  )
  reach = sizes["T"]
  if cache is not None:
    if not causal:
      raise ValueError(f"{name} needs causal to continue from a state")
    checks.check_shapes(
      name,
      k=(k, "B T H K"),
      v=(v, "B T H V"),
      **{
        "initial_state.k": (cache.k, "B M H K"),
        "initial_state.v": (cache.v, "B M H V"),
        "initial_state.length": (cache.length, "B"),
      },
    )
    slots = cache.k.shape[1]
    if chunk_size is not None and slots < chunk_size:
      raise ValueError(
        f"{name} needs a state of at least chunk_size = {chunk_size} slots; got {slots}"
      )
    reach = max(reach, slots)
  if chunk_size is not None:
    if chunk_size < 1:
      raise ValueError(f"{name} needs chunk_size >= 1; got {chunk_size}")
    reach = min(reach, chunk_size)
  L, least = sizes["L"], reach if causal else 2 * reach - 1
  if L < least or not (causal or L % 2):
    raise ValueError(
      f"{name} needs bias [H, L] with {'' if causal else 'odd '}L >= {least}; got {L}"
    )


def _group(document, position, chunk_size):
  """What a token must share with those it sees."""
  chunk = jnp.zeros_like(position) if chunk_size is None else position // chunk_size
  return jnp.stack([document, chunk], axis=-1)


def _with_cache(inputs, before, after) -> Inputs:
  """Lets the queries see the cache too.

  A single token is already in the cache after it, which spares a decode step a copy of
  all keys. Several tokens may overwrite what the first of them still see, so they are
  put beside the cache before them.
  """
  single = inputs.q.shape[1] == 1
  cache = after if single else before
  position = kv_cache.slot_positions(cache.length, cache.k.shape[1])
  group = _group(jnp.where(position >= 0, 0, -1), position, inputs.chunk_size)
  keys = (cache.k, cache.v, position, group)
  own = (inputs.k, inputs.v, inputs.k_place, inputs.k_group)
  keys = tuple(a.astype(b.dtype) for a, b in zip(keys, own))
  if not single:
    keys = tuple(jnp.concatenate(pair, axis=1) for pair in zip(keys, own))
  k, v, place, group = keys
  return inputs._replace(
    k=k, v=v, k_place=place, k_group=group, cached=cache.k.shape[1]
  )


def recurrent(inputs):
  """The definition: one query at a time over all keys."""

  def one(token):
    q, place, group = (x[:, None] for x in token)
    return parallel(inputs._replace(q=q, q_place=place, q_group=group))

  tokens = (inputs.q, inputs.q_place, inputs.q_group)
  o = jax.lax.map(one, jax.tree.map(lambda x: x.swapaxes(0, 1), tokens))
  return o[:, :, 0].swapaxes(0, 1)


def parallel(inputs):
  """All T x S scores at once."""
  distance = inputs.q_place[:, :, None] - inputs.k_place[:, None]
  see = jnp.all(inputs.q_group[:, :, None] == inputs.k_group[:, None], axis=-1)
  see &= (inputs.k_group[..., 0] >= 0)[:, None]
  if inputs.nearest == 0:
    see &= distance >= 0
  index = jnp.clip(distance - inputs.nearest, 0, inputs.bias.shape[1] - 1)
  bias = jnp.moveaxis(inputs.bias[:, index], 0, 1)  # [B, H, T, S]
  scores = chunks.product("bthk,bshk->bhts", inputs.q, inputs.k, like=inputs.q)
  see = see[:, None]
  f = ACTIVATIONS[inputs.activation]
  if f is None:
    scores = jnp.where(see, scores + bias, -jnp.inf)
    highest = jnp.max(scores, axis=-1, keepdims=True)
    highest = jax.lax.stop_gradient(jnp.where(jnp.isfinite(highest), highest, 0))
    weights = jnp.exp(scores - highest)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    weights = weights / jnp.where(total == 0, 1, total)
  else:
    number = jnp.maximum(jnp.sum(see, axis=-1, keepdims=True), 1)
    weights = jnp.where(see, f(scores / number + bias), 0)
  return chunks.product("bhts,bshv->bthv", weights, inputs.v, like=inputs.v)


def blockwise(inputs):
  """`parallel` for a block of queries, over all keys or those a chunk's length around.

  The backward pass makes each block again.
  """
  T, C, cached = inputs.q.shape[1], inputs.chunk_size, inputs.cached
  size = min(BLOCK_SIZE, T)
  queries = blocks.split((inputs.q, inputs.q_place), size)
  groups = blocks.split(inputs.q_group, size, fill=-1)  # Padded queries see nothing.

  def near(x, start, fill):
    """The keys of the cache, and of the call those that the block may see."""
    if C is None or T == 1:
      return x
    own = jnp.pad(
      x[:, cached:],
      [(0, 0), (C, C + size)] + [(0, 0)] * (x.ndim - 2),
      constant_values=fill,
    )
    own = jax.lax.dynamic_slice_in_dim(own, start, size + 2 * C, axis=1)
    return jnp.concatenate([x[:, :cached], own], axis=1)

  @jax.checkpoint
  def block(numbered):
    number, q, place, group = numbered
    start = number * size
    keys = (inputs.k, inputs.v, inputs.k_place)
    k, v, k_place = (near(x, start, 0) for x in keys)
    return parallel(
      inputs._replace(
        q=q,
        k=k,
        v=v,
        q_place=place,
        k_place=k_place,
        q_group=group,
        k_group=near(inputs.k_group, start, -1),
      )
    )

  o = jax.lax.map(block, (jnp.arange(len(groups)), *queries, groups))
  return blocks.join(o, T)


def _several_blocks(inputs):
  return inputs.q.shape[1] * inputs.k.shape[1] > BLOCK_SIZE**2


IMPLEMENTATIONS = {
  "parallel": Form(parallel, slow=_several_blocks),
  "blockwise": Form(blockwise),
  "recurrent": Form(recurrent),
}
