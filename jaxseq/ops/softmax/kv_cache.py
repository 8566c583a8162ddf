"""The state of softmax attention: the keys and values of the tokens so far.

The token at position p of its document lies in slot p mod M. While the document has at
most M tokens the cache grows; past that it is a ring of the last M, all that a window
of M tokens needs.
"""

from typing import NamedTuple

import jax
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
  slots = cache.k.shape[1]
  length = segments.length_after(segment_ids, cache.length, T)
  position = segments.positions(segment_ids, cache.length, (B, T))
  kept = position >= length[:, None] - slots  # Not overwritten within the call.
  if segment_ids is not None:
    valid, _, index = segments.parse(segment_ids)
    kept &= valid & (index == index[:, -1:])
    cache = KVCache(*(_clear(x, index[:, -1] > 0) for x in cache))
  slot = jnp.where(kept, position % slots, slots)  # Past the end, so not written.
  write = jax.vmap(lambda old, slot, new: old.at[slot].set(new, mode="drop"))
  k, v = (write(old, slot, new.astype(old.dtype)) for old, new in zip(cache, (k, v)))
  return KVCache(k, v, length)


def _clear(x, rows):
  return jnp.where(rows.reshape(-1, *[1] * (x.ndim - 1)), 0, x)
