"""The long short-term memory (Hochreiter & Schmidhuber 1997; forget gates: Gers 2000).

    i, f, g, o = W x_t + b + R h_{t-1}
    c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g)
    h_t = sigmoid(o) tanh(c_t)

R is block-diagonal; see `ops.rnn.cells`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import dispatch
from jaxseq.ops.dispatch import Form
from jaxseq.ops.rnn import cells

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
    recurrent_weights: R, which takes h (last axis) to the gates. The product is in
      its dtype.
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
  h, c = cells.prepare("lstm", gates, recurrent_weights, 4, segment_ids, h=h, c=c)
  args = (gates, recurrent_weights, LSTMState(h, c), segment_ids)
  run = dispatch.select("lstm", IMPLEMENTATIONS, implementation, gates.shape[1], *args)
  return run(*args)


def recurrent(gates, weights, state, segment_ids):
  """The definition."""

  def cell(state, gates):
    i, f, g, o = jnp.moveaxis(gates + cells.recurrence(state.h, weights), 2, 0)
    c = jax.nn.sigmoid(f) * state.c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return LSTMState(h, c), h

  return cells.over_time(cell, gates, state, segment_ids)


IMPLEMENTATIONS = {
  "pallas_tpu": cells.by_kernel("lstm", LSTMState),
  "recurrent": Form(recurrent),
}
