"""The linear recurrence by blocks, of two for the oscillators of LinOSS.

    h_t = A_t h_{t-1} + x_t                       A_t [K, K] for each of N blocks h [K]

As in `diagonal_recurrence` the maps compose to maps of the same kind, so that a tree
can sum them (LinOSS, Rusch & Rus 2024, arXiv:2410.03943, sec. 3.2).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact, Int

from jaxseq.ops import blocks, checks, dispatch, segments
from jaxseq.ops.dispatch import Form

__all__ = ["IMPLEMENTATIONS", "block_recurrence"]

CHUNK_SIZE = 256  # Tokens whose tree of sums is held at one time.


def block_recurrence(
  A: Inexact[Array, "B T N K K"] | Inexact[Array, "N K K"],
  x: Inexact[Array, "B T N K"],
  *,
  initial_state: Inexact[Array, "B N K"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  implementation: str = "auto",
) -> tuple[Inexact[Array, "B T N K"], Inexact[Array, "B N K"]]:
  """Adds up the inputs, multiplying the sum by `A` at each token.

  Args:
    A: Transitions at each token, or [N, K, K], the same at all. Not checked; a spectral
      radius over 1 grows.
    x: Inputs.
    initial_state: State before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Every state, in the dtype of `x` (complex if `A` or the initial state is), and the
    last one in at least float32 or complex64.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  checks.check_shapes(
    "block_recurrence",
    x=(x, "B T N K"),
    A=(A, "N K K" if A.ndim == 3 else "B T N K K"),
    initial_state=(initial_state, "B N K"),
    segment_ids=(segment_ids, "B T"),
  )
  B, T, N, K = x.shape
  state = jnp.zeros((B, N, K), x.dtype) if initial_state is None else initial_state
  A = A.astype(jnp.promote_types(A.dtype, jnp.float32))  # Real where only x is complex.
  kind = jnp.result_type(A, x, state)
  y, state = x.astype(kind), state.astype(kind)
  if A.ndim == 3:
    A = jnp.broadcast_to(A, (1, T, N, K, K))  # One row; the forms broadcast it over B.
  if segment_ids is not None:
    parsed = segments.parse(segment_ids)
    real, start = (z[..., None, None, None] for z in (parsed.valid, parsed.starts))
    A = jnp.where(real, jnp.where(start, 0, A), jnp.eye(K, dtype=A.dtype))
    y = segments.clear_padding(y, segment_ids)
  run = dispatch.select(
    "block_recurrence", IMPLEMENTATIONS, implementation, T, A, y, state
  )
  h, last = run(A, y, state)
  h = segments.clear_padding(h, segment_ids)
  return h.astype(kind if jnp.iscomplexobj(h) else x.dtype), last


def recurrent(A, x, state):
  """The definition."""

  def step(h, token):
    A, x = token
    h = _times(A, h) + x
    return h, h

  last, h = jax.lax.scan(step, state, (A.swapaxes(0, 1), x.swapaxes(0, 1)))
  return h.swapaxes(0, 1), last


def associative(A, x, state):
  """The maps of all tokens, composed by a tree."""

  def compose(first, then):
    (A, x), (B, y) = first, then
    product = jnp.sum(B[..., :, :, None] * A[..., None, :, :], axis=-2)
    return product, _times(B, x) + y

  kept, h = jax.lax.associative_scan(compose, (A, x), axis=1)
  h = h + _times(kept, state[:, None])
  return h, h[:, -1]


def chunked(A, x, state):
  """`associative` within blocks of `CHUNK_SIZE`, `recurrent` from block to block.

  The backward pass makes the tree of each block again.
  """
  T = x.shape[1]
  size = min(CHUNK_SIZE, T)
  # The last block is padded with A = I and x = 0, which keep the state.
  fill = -T % size
  identity = jnp.broadcast_to(
    jnp.eye(A.shape[-1], dtype=A.dtype), (A.shape[0], fill, *A.shape[2:])
  )
  A = blocks.split(jnp.concatenate([A, identity], axis=1), size)

  @jax.checkpoint
  def step(state, block):
    h, state = associative(*block, state)
    return state, h

  last, h = jax.lax.scan(step, state, (A, blocks.split(x, size)))
  return blocks.join(h, T), last


def _times(A, h):
  """A h. A sum of products is exact to float32 where a matrix unit would round."""
  return jnp.sum(A * h[..., None, :], axis=-1)


def _on_cpu(A, x, state):
  """A CPU has no width to gain from a tree, which does more work than the loop."""
  return dispatch.platform() == "cpu"


IMPLEMENTATIONS = {
  "chunked": Form(chunked, slow=_on_cpu),
  "associative": Form(associative, slow=_on_cpu),
  "recurrent": Form(recurrent),
}
