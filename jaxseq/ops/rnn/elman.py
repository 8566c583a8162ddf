"""The simple recurrent network (Elman 1990, doi:10.1207/s15516709cog1402_1).

    h_t = act(W x_t + b + R h_{t-1})

R is block-diagonal; see `ops.rnn.cells`. In blocks of one channel it is diagonal, as in
IndRNN.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import dispatch
from jaxseq.ops.dispatch import Form
from jaxseq.ops.rnn import cells

__all__ = ["ACTIVATIONS", "IMPLEMENTATIONS", "elman"]

ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu}


def elman(
  gates: Float[Array, "B T H 1 K"],
  recurrent_weights: Float[Array, "H 1 K K"],
  *,
  activation: str = "tanh",
  initial_state: Float[Array, "B H K"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H K"], Float[Array, "B H K"]]:
  """Runs the cells over time.

  Args:
    gates: W x_t + b.
    recurrent_weights: R, which takes h (last axis) to h. The product is in
      its dtype.
    activation: A key of `ACTIVATIONS`.
    initial_state: h before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    h of all tokens in the dtype of `gates`, and the last one, at least float32.

  Raises:
    ValueError: If shapes do not fit or `activation` or `implementation` is unknown.
  """
  if activation not in ACTIVATIONS:
    raise ValueError(
      f"elman needs activation in {tuple(ACTIVATIONS)}; got {activation!r}"
    )
  (h,) = cells.prepare(
    "elman", gates, recurrent_weights, 1, segment_ids, initial_state=initial_state
  )
  args = (gates, recurrent_weights, activation, h, segment_ids)
  run = dispatch.select("elman", IMPLEMENTATIONS, implementation, gates.shape[1], *args)
  return run(*args)


def recurrent(gates, weights, activation, h, segment_ids):
  """The definition."""

  def cell(h, gates):
    a = gates + cells.recurrence(h, weights)
    h = ACTIVATIONS[activation](a[:, :, 0])
    return h, h

  return cells.over_time(cell, gates, h, segment_ids)


IMPLEMENTATIONS = {"recurrent": Form(recurrent)}
