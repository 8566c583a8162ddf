"""The state of softmax attention: the keys and values of the tokens so far.

The token at position p of its document lies in slot p mod M. While the document has at
most M tokens the cache grows; past that it is a ring of the last M, all that a window of
M tokens needs.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import segments

__all__ = ["KVCache", "append", "empty", "slot_positions"]


class KVCache(NamedTuple):
  """Keys and values of the current document.

  Attributes:
    k: Keys by slot, as attention uses them (already rotated, where they are).
    v: Values by slot.
    length: Tokens of the document so far, those overwritten included.
  """

  k: Float[Array, "B M G K"]
  v: Float[Array, "B M G V"]
  length: Int[Array, "B"]


def empty(batch_size, num_slots, num_heads, key_size, value_size, dtype) -> KVCache:
  """A cache of no tokens."""
  shape = (batch_size, num_slots, num_heads)
  k, v = jnp.zeros((*shape, key_size), dtype), jnp.zeros((*shape, value_size), dtype)
  return KVCache(k, v, jnp.zeros(batch_size, jnp.int32))


def slot_positions(length: Int[Array, "B"], num_slots: int) -> Int[Array, "B M"]:
  """Position of the token in each slot; negative if there is none."""
  last = length[:, None] - 1
  return last - (last - jnp.arange(num_slots)) % num_slots


def append(
  cache: KVCache,
  k: Float[Array, "B T G K"],
  v: Float[Array, "B T G V"],
  segment_ids: Int[Array, "B T"] | None = None,
) -> KVCache:
  """The cache after T more tokens: that of the last document of each row."""
  B, T = k.shape[:2]
  length = segments.length_after(segment_ids, cache.length, T)
  first, before = 0, cache.length
  if segment_ids is not None:
    valid, _, index = segments.parse(segment_ids)
    first = (valid & (index == index[:, -1:])).argmax(axis=1)[:, None]
    before = jnp.where(index[:, -1] == 0, cache.length, 0)
  position = slot_positions(length, cache.k.shape[1])
  token = position - before[:, None]  # Of this call, if not negative.
  source = jnp.clip(first + token, 0, T - 1)[..., None, None]

  def write(old, new):
    new = jnp.take_along_axis(new, source, axis=1).astype(old.dtype)
    kept = jnp.where((token >= 0)[..., None, None], new, old)
    return jnp.where((position >= 0)[..., None, None], kept, 0)

  return KVCache(write(cache.k, k), write(cache.v, v), length)
