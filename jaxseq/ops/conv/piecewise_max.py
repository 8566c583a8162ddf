"""The largest value of each piece of a document: PoNet's segment max-pooling (SMP).

    s_t = max_j x_j        over the tokens j of the piece of token t, by channel

(Tan et al. 2021, arXiv:2110.02442, sec. 3.) Pieces are `size` tokens that follow each
other, counted from the start of the document; its last piece may be shorter.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import checks, dispatch, segments
from jaxseq.ops.dispatch import Form

__all__ = ["IMPLEMENTATIONS", "piecewise_max"]


def piecewise_max(
  x: Float[Array, "B T D"],
  size: int,
  *,
  segment_ids: Int[Array, "B T"] | None = None,
  implementation: str = "auto",
) -> Float[Array, "B T D"]:
  """Gives each token the maximum over its piece.

  Args:
    x: Inputs.
    size: Tokens of a piece.
    segment_ids: Packed documents; see `ops.segments`.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Maxima in the dtype of `x`, zero at padding. There is no state.

  Raises:
    ValueError: If shapes do not fit, `size` is less than 1 or `implementation` is
      unknown.
    NotImplementedError: If the implementation named cannot take this call.
  """
  name = "piecewise_max"
  checks.check_shapes(name, x=(x, "B T D"), segment_ids=(segment_ids, "B T"))
  if size < 1:
    raise ValueError(f"{name} needs a size of at least 1; got {size}")
  T = x.shape[1]
  run = dispatch.select(name, IMPLEMENTATIONS, implementation, T, x, size, segment_ids)
  return segments.clear_padding(run(x, size, segment_ids), segment_ids)


def _hidden(x, size, segment_ids):
  """x with nothing at padding, and whether a piece starts at a token."""
  before = jnp.zeros(len(x), jnp.int32)
  place = segments.positions(segment_ids, before, x.shape[:2])
  starts = place % size == 0
  if segment_ids is not None:
    valid = segment_ids != 0
    x = jnp.where(valid[..., None], x, -jnp.inf)
    starts &= valid  # Padding has the place of its predecessor.
  return x, starts


def _ends(starts):
  """Whether a piece ends at a token."""
  return jnp.pad(starts[:, 1:], ((0, 0), (0, 1)), constant_values=True)


def recurrent(x, size, segment_ids):
  """The definition: a running maximum, which is carried back from where it ends."""
  x, starts = _hidden(x, size, segment_ids)
  by_time = lambda x: x.swapaxes(0, 1)

  def forward(top, token):
    x, start = token
    top = jnp.where(start[:, None], x, jnp.maximum(top, x))
    return top, top

  def back(top, token):
    so_far, end = token
    top = jnp.where(end[:, None], so_far, top)
    return top, top

  low = jnp.full_like(x[:, 0], -jnp.inf)
  _, so_far = jax.lax.scan(forward, low, (by_time(x), by_time(starts)))
  _, top = jax.lax.scan(back, low, (so_far, by_time(_ends(starts))), reverse=True)
  return by_time(top)


def associative(x, size, segment_ids):
  """The running maximum by a tree, and each piece's last one for all its tokens."""
  x, starts = _hidden(x, size, segment_ids)

  def join(first, then):
    (a, x), (b, y) = first, then
    return a | b, jnp.where(b, y, jnp.maximum(x, y))

  _, so_far = jax.lax.associative_scan(join, (starts[..., None], x), axis=1)
  T = x.shape[1]
  place = jnp.where(_ends(starts), jnp.arange(T), T - 1)
  last = jax.lax.cummin(place, axis=1, reverse=True)
  return jnp.take_along_axis(so_far, last[..., None], axis=1)


def reshaped(x, size, segment_ids):
  """Of rows of one document: pieces become an axis."""
  del segment_ids
  B, T, D = x.shape
  size = min(size, T)
  whole = ((0, 0), (0, -T % size), (0, 0))
  pieces = jnp.pad(x, whole, constant_values=-jnp.inf).reshape(B, -1, size, D)
  top = jnp.broadcast_to(jnp.max(pieces, axis=2, keepdims=True), pieces.shape)
  return top.reshape(B, -1, D)[:, :T]


def _packed(x, size, segment_ids):
  if segment_ids is not None:
    return "it takes one document a row, not segment_ids"
  return None


IMPLEMENTATIONS = {
  "reshaped": Form(reshaped, _packed),
  "associative": Form(associative),
  "recurrent": Form(recurrent),
}
