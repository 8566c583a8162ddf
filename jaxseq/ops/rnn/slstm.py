"""The scalar memory of xLSTM (Beck et al. 2024, arXiv:2405.04517, eq. 8 to 18).

    i, f, z, o = W x_t + b + R h_{t-1}
    m_t = max(log sigmoid(f) + m_{t-1}, i);    m_t = i where the memory is empty, n = 0
    c_t = exp(log sigmoid(f) + m_{t-1} - m_t) c_{t-1} + exp(i - m_t) tanh(z)
    n_t = exp(log sigmoid(f) + m_{t-1} - m_t) n_{t-1} + exp(i - m_t)
    h_t = sigmoid(o) c_t / n_t

Input gates are exponential, so memory c and normaliser n are held divided by exp(m),
which h does not depend on. Of the paper's two forget gates this is the sigmoid, as in
the authors' code. So n is never below 1 once a token was written; as in FlashRNN
(Poeppel et al. 2024, arXiv:2412.07752) it is raised to 1 if an initial state's is.
R is block-diagonal; see `ops.rnn.cells`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import dispatch
from jaxseq.ops.dispatch import Form
from jaxseq.ops.rnn import cells

__all__ = ["IMPLEMENTATIONS", "SLSTMState", "slstm"]


class SLSTMState(NamedTuple):
  """The output h, and memory c and normaliser n, both divided by exp(m). float32."""

  h: Float[Array, "B H K"]
  c: Float[Array, "B H K"]
  n: Float[Array, "B H K"]
  m: Float[Array, "B H K"]


def slstm(
  gates: Float[Array, "B T H 4 K"],
  recurrent_weights: Float[Array, "H 4 K K"],
  *,
  initial_state: SLSTMState | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H K"], SLSTMState]:
  """Runs the cells over time.

  Args:
    gates: W x_t + b, in the order input, forget, candidate, output.
    recurrent_weights: R, which takes h (last axis) to the gates. The product is in
      its dtype.
    initial_state: State before the first token. Zeros, which is empty, if None.
    segment_ids: Packed documents; see `ops.segments`.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    h of all tokens in the dtype of `gates`, and the last state.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  state = SLSTMState(None, None, None, None) if initial_state is None else initial_state
  state = SLSTMState(
    *cells.prepare("slstm", gates, recurrent_weights, 4, segment_ids, **state._asdict())
  )
  args = (gates, recurrent_weights, state, segment_ids)
  run = dispatch.select("slstm", IMPLEMENTATIONS, implementation, gates.shape[1], *args)
  return run(*args)


def recurrent(gates, weights, state, segment_ids):
  """The definition."""

  def cell(state, gates):
    i, f, z, o = jnp.moveaxis(gates + cells.recurrence(state.h, weights), 2, 0)
    kept = jax.nn.log_sigmoid(f) + state.m
    m = jnp.where(state.n == 0, i, jnp.maximum(kept, i))
    # Where the memory is empty nothing is kept, and i may be far below.
    keep, write = jnp.exp(jnp.minimum(kept - m, 0)), jnp.exp(i - m)
    c = keep * state.c + write * jnp.tanh(z)
    n = jnp.maximum(keep * state.n + write, 1)
    h = jax.nn.sigmoid(o) * c / n
    return SLSTMState(h, c, n, m), h

  return cells.over_time(cell, gates, state, segment_ids)


IMPLEMENTATIONS = {
  "pallas_tpu": cells.by_kernel("slstm", SLSTMState),
  "recurrent": Form(recurrent),
}
