"""The diagonal linear recurrence of S5, LRU, RG-LRU, HGRN, QRNN and minGRU.

    h_t = a_t h_{t-1} + x_t                  elementwise; state [N]

`a` is the factor itself, not its logarithm: real of either sign, zero, or complex. The
maps h -> a h + x compose to maps of the same kind, so that a tree can sum them
(Blelloch 1990, CMU-CS-90-190, sec. 1.4; Martin & Cundy 2018, arXiv:1709.04057).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact, Int

from jaxseq.ops import blocks, checks, dispatch, segments
from jaxseq.ops.dispatch import Form

__all__ = ["IMPLEMENTATIONS", "diagonal_recurrence"]

CHUNK_SIZE = 256  # Tokens whose tree of sums is held at one time.


def diagonal_recurrence(
  a: Inexact[Array, "B T N"] | Inexact[Array, "N"],
  x: Inexact[Array, "B T N"],
  *,
  initial_state: Inexact[Array, "B N"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  implementation: str = "auto",
) -> tuple[Inexact[Array, "B T N"], Inexact[Array, "B N"]]:
  """Adds up the inputs, multiplying the sum by `a` at each token.

  Args:
    a: What is kept of the state at each token, or [N], the same at all. Not checked; a
      modulus over 1 grows.
    x: Inputs, already scaled. Nothing here has a `scale`: there is no product of
      queries and keys.
    initial_state: State before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Every state, in the dtype of `x` (complex if `a` or the initial state is), and the
    last one in at least float32 or complex64.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
    NotImplementedError: If the implementation named cannot take this call.
  """
  checks.check_shapes(
    "diagonal_recurrence",
    x=(x, "B T N"),
    a=(a, "N" if a.ndim == 1 else "B T N"),
    initial_state=(initial_state, "B N"),
    segment_ids=(segment_ids, "B T"),
  )
  B, T, N = x.shape
  state = jnp.zeros((B, N), x.dtype) if initial_state is None else initial_state
  kind = jnp.promote_types(jnp.result_type(a, x, state), jnp.float32)
  a, y, state = a.astype(kind), x.astype(kind), state.astype(kind)
  if a.ndim == 1:
    a = jnp.broadcast_to(a, (1, T, N))  # One row; the forms broadcast it over B.
  if segment_ids is not None:
    parsed = segments.parse(segment_ids)
    real, start = parsed.valid[..., None], parsed.starts[..., None]
    a = jnp.where(real, jnp.where(start, 0, a), 1)
    y = jnp.where(real, y, 0)
  run = dispatch.select(
    "diagonal_recurrence", IMPLEMENTATIONS, implementation, T, a, y, state
  )
  h, last = run(a, y, state)
  if segment_ids is not None:
    h = jnp.where(real, h, 0)
  return h.astype(kind if jnp.iscomplexobj(h) else x.dtype), last


def recurrent(a, x, state):
  """The definition."""

  def step(h, token):
    a, x = token
    h = a * h + x
    return h, h

  last, h = jax.lax.scan(step, state, (a.swapaxes(0, 1), x.swapaxes(0, 1)))
  return h.swapaxes(0, 1), last


def associative(a, x, state):
  """The maps of all tokens, composed by a tree."""

  def compose(first, then):
    (a, x), (b, y) = first, then
    return a * b, b * x + y

  kept, h = jax.lax.associative_scan(compose, (a, x), axis=1)
  h = h + kept * state[:, None]
  return h, h[:, -1]


def chunked(a, x, state):
  """`associative` within blocks of `CHUNK_SIZE`, `recurrent` from block to block.

  The backward pass makes the tree of each block again.
  """
  T = x.shape[1]
  size = min(CHUNK_SIZE, T)
  # The last block is padded with a = 1 and x = 0, which keep the state.
  a = blocks.split(a, size, fill=1)

  @jax.checkpoint
  def step(state, block):
    h, state = associative(*block, state)
    return state, h

  last, h = jax.lax.scan(step, state, (a, blocks.split(x, size)))
  return blocks.join(h, T), last


def _on_cpu(a, x, state):
  """A CPU has no width to gain from a tree, which does twice the work of the loop."""
  return dispatch.platform() == "cpu"


IMPLEMENTATIONS = {
  "chunked": Form(chunked, slow=_on_cpu),
  "associative": Form(associative, slow=_on_cpu),
  "recurrent": Form(recurrent),
}
