"""Packed documents: what `segment_ids` means to every op and mixer.

    segment_ids  1 1 1 2 2 0 0        [B, T]; two documents and two tokens of padding

- Tokens of different ids never interact. Neighbouring documents differ in their ids.
- Id 0 is padding. It is neither read nor written, and its outputs are zero. It may
  stand before, between and after documents, not inside one.
- The initial state belongs to the first document of the row, and the final state is
  that of the last document after its last token. So a row may be padded on either
  side, and a row of padding alone returns the state it was given.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

__all__ = [
  "Segments",
  "clear_padding",
  "from_cu_seqlens",
  "length_after",
  "parse",
  "positions",
]


class Segments(NamedTuple):
  """`segment_ids` as the recurrences use them.

  Attributes:
    valid: False at padding.
    starts: True at the first token of each document but the row's first, where the
      state is reset.
    index: Number of the document in its row, from 0; padding has its predecessor's.
  """

  valid: Bool[Array, "B T"]
  starts: Bool[Array, "B T"]
  index: Int[Array, "B T"]


def parse(segment_ids: Int[Array, "B T"]) -> Segments:
  """Finds where documents start."""
  valid = segment_ids != 0
  place = jnp.arange(segment_ids.shape[1])
  latest = jax.lax.cummax(jnp.where(valid, place, -1), axis=1)  # Last real token.
  before = jnp.pad(latest[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
  id_before = jnp.take_along_axis(segment_ids, jnp.maximum(before, 0), axis=1)
  starts = valid & (before >= 0) & (segment_ids != id_before)
  return Segments(valid, starts, jnp.cumsum(starts, axis=1, dtype=jnp.int32))


def positions(
  segment_ids: Int[Array, "B T"] | None,
  length: Int[Array, "B"],
  shape: tuple[int, int] | None = None,
) -> Int[Array, "B T"]:
  """Place of each token in its document. Padding has its predecessor's.

  Args:
    segment_ids: Packed documents; None is one document a row.
    length: Tokens of the row's first document before this call.
    shape: [B, T], for when there are no `segment_ids`.
  """
  if segment_ids is None:
    return length[:, None] + jnp.broadcast_to(jnp.arange(shape[1]), shape)
  segments = parse(segment_ids)
  count = jnp.cumsum(segments.valid, axis=1, dtype=jnp.int32) - 1
  start = jax.lax.cummax(jnp.where(segments.starts, count, 0), axis=1)
  return jnp.where(segments.index == 0, length[:, None], 0) + count - start


def length_after(
  segment_ids: Int[Array, "B T"] | None, length: Int[Array, "B"], num_tokens: int
) -> Int[Array, "B"]:
  """Tokens of the row's last document after this call.

  Args:
    segment_ids: Packed documents; None is one document a row.
    length: Tokens of the row's first document before this call.
    num_tokens: T.
  """
  if segment_ids is None:
    return length + num_tokens
  valid, _, index = parse(segment_ids)
  last = index[:, -1:]
  count = jnp.sum(valid & (index == last), axis=1, dtype=jnp.int32)
  return jnp.where(last[:, 0] == 0, length, 0) + count


def clear_padding(x: Array, segment_ids: Int[Array, "B T"] | None) -> Array:
  """Zeros at padding, whatever stood there; [B, T, ...]."""
  if segment_ids is None:
    return x
  return jnp.where((segment_ids != 0).reshape(*x.shape[:2], *[1] * (x.ndim - 2)), x, 0)


def from_cu_seqlens(cu_seqlens: Int[Array, "N"], length: int) -> Int[Array, "1 T"]:
  """Ids 1, 2, ... from cumulative lengths such as [0, 3, 5], 0 past the last.

  Args:
    cu_seqlens: Where documents begin, and the end of the last, in tokens.
    length: T, at least `cu_seqlens[-1]`.
  """
  place = jnp.arange(length)
  ids = jnp.searchsorted(cu_seqlens, place, side="right")
  return jnp.where(place < cu_seqlens[-1], ids, 0).astype(jnp.int32)[None]
