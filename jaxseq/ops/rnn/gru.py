"""The gated recurrent unit (Cho et al. 2014, arXiv:1406.1078, eq. 5 to 8).

    r, z = sigmoid(W_rz x_t + b_rz + R_rz h_{t-1})
    n = tanh(W_n x_t + b_n + r * (R_n h_{t-1} + c))       reset "after" the product
    n = tanh(W_n x_t + b_n + R_n (r * h_{t-1}) + c)       reset "before" it
    h_t = z h_{t-1} + (1 - z) n

The paper resets the state before the product. After it, as in cuDNN, PyTorch and
FlashRNN (arXiv:2412.07752), one product serves all gates, and c is not a part of b_n.
R is block-diagonal; see `ops.rnn.cells`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import checks, dispatch
from jaxseq.ops.dispatch import Form
from jaxseq.ops.rnn import cells

__all__ = ["IMPLEMENTATIONS", "RESETS", "gru"]

RESETS = ("after", "before")


def gru(
  gates: Float[Array, "B T H 3 K"],
  recurrent_weights: Float[Array, "H 3 K K"],
  recurrent_bias: Float[Array, "H K"] | None = None,
  *,
  reset: str = "after",
  initial_state: Float[Array, "B H K"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H K"], Float[Array, "B H K"]]:
  """Runs the cells over time.

  Args:
    gates: W x_t + b, in the order reset, update, candidate.
    recurrent_weights: R, which takes h (last axis) to the gates. The product is in
      its dtype.
    recurrent_bias: c, added to the candidate's product with R. None is zero.
    reset: Whether the state is reset "after" or "before" that product.
    initial_state: h before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    h of all tokens in the dtype of `gates`, and the last one, at least float32.

  Raises:
    ValueError: If shapes do not fit or `reset` or `implementation` is unknown.
  """
  if reset not in RESETS:
    raise ValueError(f"gru needs reset in {RESETS}; got {reset!r}")
  (h,) = cells.prepare(
    "gru", gates, recurrent_weights, 3, segment_ids, initial_state=initial_state
  )
  checks.check_shapes(
    "gru", initial_state=(h, "B H K"), recurrent_bias=(recurrent_bias, "H K")
  )
  c = jnp.zeros(h.shape[1:], h.dtype) if recurrent_bias is None else recurrent_bias
  args = (gates, recurrent_weights, c.astype(h.dtype), reset, h, segment_ids)
  run = dispatch.select("gru", IMPLEMENTATIONS, implementation, gates.shape[1], *args)
  return run(*args)


def recurrent(gates, weights, bias, reset, h, segment_ids):
  """The definition."""

  def after(h, gates):
    a_r, a_z, a_n = jnp.moveaxis(gates, 2, 0)
    u_r, u_z, u_n = jnp.moveaxis(cells.recurrence(h, weights), 2, 0)
    r, z = jax.nn.sigmoid(a_r + u_r), jax.nn.sigmoid(a_z + u_z)
    h = z * h + (1 - z) * jnp.tanh(a_n + r * (u_n + bias))
    return h, h

  def before(h, gates):
    u = cells.recurrence(h, weights[:, :2])
    r, z = jnp.moveaxis(jax.nn.sigmoid(gates[:, :, :2] + u), 2, 0)
    u = cells.recurrence(r * h, weights[:, 2:])[:, :, 0]
    h = z * h + (1 - z) * jnp.tanh(gates[:, :, 2] + u + bias)
    return h, h

  cell = {"after": after, "before": before}[reset]
  return cells.over_time(cell, gates, h, segment_ids)


def pallas_tpu(gates, weights, bias, reset, h, segment_ids):
  """The kernel. R_n h + c is a gate of its own, to which c stands for the inputs.

  So c is rounded to the dtype of the gates.
  """
  product = jnp.broadcast_to(bias[None, None, :, None], gates[:, :, :, :1].shape)
  gates = jnp.concatenate(
    [gates[:, :, :, :2], product.astype(gates.dtype), gates[:, :, :, 2:]], axis=3
  )
  h, (last,) = cells.over_time_by_kernel("gru", gates, weights, [h], segment_ids)
  return h, last


def refusal(gates, weights, bias, reset, h, segment_ids):
  """Why the kernel cannot take this call, or None."""
  if reset != "after":
    return f"a state reset {reset} the product needs one product after another"
  return cells.kernel_refusal(gates, weights)


IMPLEMENTATIONS = {
  "pallas_tpu": Form(pallas_tpu, refusal),
  "recurrent": Form(recurrent),
}
