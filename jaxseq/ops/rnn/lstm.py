"""The long short-term memory (Hochreiter & Schmidhuber 1997; forget gates: Gers 2000).

    i, f, g, o = W x_t + b + R h_{t-1}
    c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g)
    h_t = sigmoid(o) tanh(c_t)

R is block-diagonal, a block a head (FlashRNN, Poeppel et al. 2024, arXiv:2412.07752,
sec. 3); one head is the classical network. W x_t + b needs no recurrence and is
computed for all tokens outside.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import checks, chunks, dispatch, segments
from jaxseq.ops.dispatch import Form

__all__ = ["IMPLEMENTATIONS", "LSTMState", "lstm"]


class LSTMState(NamedTuple):
  """What an LSTM carries: the output h and the cell c, float32."""

  h: Float[Array, "B H K"]
  c: Float[Array, "B H K"]


def lstm(
  gates: Float[Array, "B T H 4 K"],
  recurrent_weights: Float[Array, "H 4 K K"],
  *,
  initial_state: LSTMState | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H K"], LSTMState]:
  """Runs the cells over time.

  Args:
    gates: W x_t + b, in the order input, forget, candidate, output.
    recurrent_weights: R, which takes h (last axis) to the gates.
    initial_state: State before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    implementation: A key of `IMPLEMENTATIONS`, or "auto". The gates see the state
      through a nonlinearity, so no form but the recurrent one is exact.

  Returns:
    h of all tokens in the dtype of `gates`, and the last state.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  h, c = (None, None) if initial_state is None else initial_state
  if gates.ndim != 5 or gates.shape[3] != 4:
    raise ValueError(f"lstm needs gates [B, T, H, 4, K]; got shape {gates.shape}")
  sizes = checks.check_shapes(
    "lstm",
    gates=(gates[..., 0, :], "B T H K"),
    h=(h, "B H K"),
    c=(c, "B H K"),
    segment_ids=(segment_ids, "B T"),
  )
  H, K = sizes["H"], sizes["K"]
  if recurrent_weights.shape != (H, 4, K, K):
    raise ValueError(
      f"lstm needs recurrent_weights [H, 4, K, K] = {(H, 4, K, K)}; "
      f"got shape {recurrent_weights.shape}"
    )
  kind = jnp.promote_types(gates.dtype, jnp.float32)
  if initial_state is None:
    h = c = jnp.zeros((sizes["B"], H, K), kind)
  state = LSTMState(h.astype(kind), c.astype(kind))
  if segment_ids is None:
    segment_ids = jnp.ones(gates.shape[:2], jnp.int32)
  parsed = segments.parse(segment_ids)
  args = (gates, recurrent_weights, state, parsed)
  run = dispatch.select("lstm", IMPLEMENTATIONS, implementation, sizes["T"], *args)
  return run(*args)


def recurrent(gates, weights, state, parsed):
  """The definition. The products with R are in the dtype of the gates."""
  kind = state.h.dtype

  def step(state, token):
    gates, valid, start = token
    valid, start = valid[:, None, None], start[:, None, None]
    h, c = (jnp.where(start, 0, s) for s in state)
    recurrence = chunks.product("bhk,hgjk->bhgj", h, weights, like=gates)
    i, f, g, o = jnp.moveaxis(gates.astype(kind) + recurrence, 2, 0)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    new = LSTMState(jnp.where(valid, h, state.h), jnp.where(valid, c, state.c))
    return new, jnp.where(valid, h, 0).astype(gates.dtype)

  gates = jnp.where(parsed.valid[..., None, None, None], gates, 0)
  tokens = jax.tree.map(
    lambda x: x.swapaxes(0, 1), (gates, parsed.valid, parsed.starts)
  )
  state, h = jax.lax.scan(step, state, tokens)
  return h.swapaxes(0, 1), state


IMPLEMENTATIONS = {"recurrent": Form(recurrent)}
