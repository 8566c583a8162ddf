"""What the tokens of a document have in common: sums, means, softmax over its tokens.

Sums are scattered by document and gathered again, so they cost O(T) however many
documents a row has. Without `segment_ids` the row is one document, and what its tokens
have in common has a time axis of one. See `ops.segments` for what the ids mean.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxseq.ops import chunks, segments

__all__ = ["counts", "last", "means", "softmax", "sums"]


def sums(x: Array, segment_ids: Int[Array, "B T"] | None) -> Array:
  """For each token the sum over its document, at least float32.

  Args:
    x: By token, [B, T, ...]. What stands at padding is left out.
    segment_ids: Packed documents, or None.

  Returns:
    [B, T, ...]; [B, 1, ...] without `segment_ids`.
  """
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  if segment_ids is None:
    return jnp.sum(x, axis=1, keepdims=True)
  index = segments.parse(segment_ids).index
  x = segments.clear_padding(x, segment_ids)
  return jax.vmap(lambda x, i: jnp.zeros_like(x).at[i].add(x)[i])(x, index)


def counts(shape: tuple[int, int], segment_ids: Int[Array, "B T"] | None) -> Array:
  """For each token the number of tokens of its document, at least one.

  Args:
    shape: [B, T].
    segment_ids: Packed documents, or None.
  """
  return jnp.maximum(sums(jnp.ones(shape, jnp.float32), segment_ids), 1)


def means(x: Array, segment_ids: Int[Array, "B T"] | None) -> Array:
  """For each token the mean over its document; see `sums`."""
  number = counts(x.shape[:2], segment_ids)
  return sums(x, segment_ids) / number.reshape(*number.shape, *[1] * (x.ndim - 2))


def last(x: Array, segment_ids: Int[Array, "B T"] | None) -> Array:
  """For each token what stands at the last token of its document.

  So the result of a recurrence over the tokens so far becomes that over all of them.

  Args:
    x: By token, [B, T, ...].
    segment_ids: Packed documents, or None.

  Returns:
    [B, T, ...]; [B, 1, ...] without `segment_ids`.
  """
  if segment_ids is None:
    return x[:, -1:]
  valid, _, index = segments.parse(segment_ids)
  place = jnp.where(valid, jnp.arange(x.shape[1]), 0)
  end = jax.vmap(lambda p, i: jnp.zeros_like(p).at[i].max(p)[i])(place, index)
  return jax.vmap(lambda x, end: x[end])(x, end)


def softmax(x: Array, segment_ids: Int[Array, "B T"] | None) -> Array:
  """Positive numbers that add up to one over each document, zero at padding.

  Args:
    x: By token, [B, T, ...].
    segment_ids: Packed documents, or None.

  Returns:
    [B, T, ...], at least float32.
  """
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  if segment_ids is None:
    return jax.nn.softmax(x, axis=1)
  valid, _, index = segments.parse(segment_ids)
  valid = valid.reshape(*valid.shape, *[1] * (x.ndim - 2))
  x = jnp.where(valid, x, -jnp.inf)
  top = jax.vmap(lambda x, i: jnp.full_like(x, -jnp.inf).at[i].max(x)[i])(x, index)
  e = chunks.masked_exp(x - jax.lax.stop_gradient(top), valid)
  return e / jnp.where(valid, sums(e, segment_ids), 1)
