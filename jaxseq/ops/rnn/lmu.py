"""The Legendre memory unit (Voelker et al. 2019, NeurIPS, eq. 4 to 7).

    u_t = x^u_t + e_h . h_{t-1} + e_m . m_{t-1}
    m_t = A m_{t-1} + B u_t                                     state [N]
    h_t = tanh(x^h_t + W_h h_{t-1} + W_m m_t)                   state [K]

A linear memory of one channel, whose input a nonlinear state has a say in, and that the
state reads. What the inputs give, x^u and x^h, is computed for all tokens outside. With
e_h, e_m and W_h zero it is `dense_recurrence` and a layer of its own.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import checks, chunks, dispatch, segments
from jaxseq.ops.dispatch import Form
from jaxseq.ops.rnn import cells

__all__ = ["IMPLEMENTATIONS", "LMUState", "LMUWeights", "lmu"]


class LMUState(NamedTuple):
  """What a unit carries, float32."""

  h: Float[Array, "B K"]
  m: Float[Array, "B N"]


class LMUWeights(NamedTuple):
  """The weights inside the recurrence, by the names of the equations."""

  A: Float[Array, "N N"]
  B: Float[Array, "N"]
  e_h: Float[Array, "K"]
  e_m: Float[Array, "N"]
  W_h: Float[Array, "K K"]
  W_m: Float[Array, "K N"]


def lmu(
  u: Float[Array, "B T"],
  x: Float[Array, "B T K"],
  weights: LMUWeights,
  *,
  initial_state: LMUState | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T K"], LMUState]:
  """Runs the unit over time.

  Args:
    u: x^u, the inputs' part of what is written to the memory.
    x: x^h, the inputs' part of h before the tanh.
    weights: A and B of the memory, and what is learned.
    initial_state: State before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    implementation: A key of `IMPLEMENTATIONS`, or "auto". No form but the recurrent one
      is exact.

  Returns:
    h of all tokens in the dtype of `x`, and the last state.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  h, m = (None, None) if initial_state is None else initial_state
  sizes = checks.check_shapes(
    "lmu",
    u=(u, "B T"),
    x=(x, "B T K"),
    B=(weights.B, "N"),
    e_h=(weights.e_h, "K"),
    e_m=(weights.e_m, "N"),
    W_m=(weights.W_m, "K N"),
    h=(h, "B K"),
    m=(m, "B N"),
    segment_ids=(segment_ids, "B T"),
  )
  for name, size in (("A", sizes["N"]), ("W_h", sizes["K"])):
    shape = getattr(weights, name).shape
    if shape != (size, size):
      raise ValueError(f"lmu needs {name} of shape {(size, size)}; got shape {shape}")
  kind = jnp.promote_types(x.dtype, jnp.float32)
  zeros = LMUState(*(jnp.zeros((sizes["B"], sizes[n]), kind) for n in "KN"))
  state = zeros if initial_state is None else initial_state
  state, weights = jax.tree.map(lambda a: jnp.asarray(a, kind), (state, weights))
  u, y = (segments.clear_padding(a, segment_ids).astype(kind) for a in (u, x))
  if segment_ids is None:
    segment_ids = jnp.ones(u.shape, jnp.int32)
  args = (u, y, weights, state, segments.parse(segment_ids))
  run = dispatch.select("lmu", IMPLEMENTATIONS, implementation, sizes["T"], *args)
  h, last = run(*args)
  return h.astype(x.dtype), last


def recurrent(u, x, weights, state, parsed):
  """The definition."""
  A, B, e_h, e_m, W_h, W_m = weights
  product = lambda W, s: chunks.product("ij,bj->bi", W, s, like=s)

  def step(state, token):
    u, x, valid, start = token
    h, m = (jnp.where(start[:, None], 0, s) for s in state)
    u = u + product(e_h[None], h)[:, 0] + product(e_m[None], m)[:, 0]
    m = product(A, m) + B * u[:, None]
    h = jnp.tanh(x + product(W_h, h) + product(W_m, m))
    keep = lambda new, old: jnp.where(valid[:, None], new, old)
    new = jax.tree.map(keep, LMUState(h, m), state)
    return new, jnp.where(valid[:, None], h, 0)

  tokens = jax.tree.map(lambda a: a.swapaxes(0, 1), (u, x, parsed.valid, parsed.starts))
  last, h = jax.lax.scan(step, state, tokens, unroll=cells.UNROLL[dispatch.platform()])
  return h.swapaxes(0, 1), last


IMPLEMENTATIONS = {"recurrent": Form(recurrent)}
