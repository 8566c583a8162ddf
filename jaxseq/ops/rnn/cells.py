"""A cell over time: what the recurrences share whose gates see their state.

    state_t, h_t = cell(state_{t-1}, W x_t + b)          every array of a state [H, K]

W x_t + b needs no recurrence and is computed for all tokens outside. R, which takes
h_{t-1} to the gates, is block-diagonal, a block a head (FlashRNN, Poeppel et al. 2024,
arXiv:2412.07752, sec. 3); one head is the classical network.
"""

import functools

import jax
import jax.numpy as jnp
from jaxseq_kernels import recurrent_cells
from jaxtyping import Array, Float, Int

from jaxseq.ops import checks, chunks, dispatch, segments, sharded

__all__ = [
  "UNROLL",
  "by_kernel",
  "kernel_refusal",
  "over_time",
  "over_time_by_kernel",
  "prepare",
  "recurrence",
]

# Tokens of one turn of the loop. On a GPU a turn costs time of its own, and more than 8
# tokens little but compilation, which takes 17 s at 32; a CPU loses backward
# what it gains. ms of [B, T, H, K] forward / forward and backward, on an H200 with
# bfloat16 weights and on two cores of a CPU with float32:
#
#     tokens                       1         4         8        16        32
#     H200, lstm  [16, 1024, 1, 512]
#                             8.8 / 34  6.9 / 22  6.3 / 18  7.0 / 17  6.5 / 17
#     H200, slstm [16, 1024, 4, 128]
#                             7.0 / 43  6.2 / 25  5.5 / 19  5.3 / 19  5.0 / 17
#     CPU, lstm   [8, 256, 1, 256]
#                              18 / 54   14 / 60   14 / 70
#     CPU, lstm   [32, 256, 4, 64]
#                              47 / 91  52 / 166  52 / 238
UNROLL = {"cpu": 1, "gpu": 8, "tpu": 8}


def prepare(
  op: str,
  gates: Float[Array, "B T H G K"],
  recurrent_weights: Float[Array, "H G K K"],
  num_gates: int,
  segment_ids: Int[Array, "B T"] | None,
  **states: Float[Array, "B H K"] | None,
) -> list[Float[Array, "B H K"]]:
  """Checks shapes.

  Args:
    op: Name for messages.
    gates: The part of the gates that the inputs give.
    recurrent_weights: R.
    num_gates: G.
    segment_ids: Or None.
    **states: By name, the arrays of the initial state; None is zeros.

  Returns:
    The arrays of the initial state, at least float32.
  """
  if gates.ndim != 5 or gates.shape[3] != num_gates:
    raise ValueError(
      f"{op} needs gates [B, T, H, {num_gates}, K]; got shape {gates.shape}"
    )
  sizes = checks.check_shapes(
    op,
    gates=(gates[..., 0, :], "B T H K"),
    segment_ids=(segment_ids, "B T"),
    **{name: (array, "B H K") for name, array in states.items()},
  )
  B, H, K = sizes["B"], sizes["H"], sizes["K"]
  if recurrent_weights.shape != (H, num_gates, K, K):
    raise ValueError(
      f"{op} needs recurrent_weights [H, {num_gates}, K, K] = "
      f"{(H, num_gates, K, K)}; got shape {recurrent_weights.shape}"
    )
  kind = jnp.promote_types(gates.dtype, jnp.float32)
  zeros = jnp.zeros((B, H, K), kind)
  return [zeros if s is None else s.astype(kind) for s in states.values()]


def recurrence(
  h: Float[Array, "B H K"], weights: Float[Array, "H G K K"]
) -> Float[Array, "B H G K"]:
  """R h. The dtype of R is that of the product."""
  return chunks.product("bhk,hgjk->bhgj", h, weights, like=weights)


def over_time(cell, gates, state, segment_ids):
  """Runs a cell over the tokens.

  Args:
    cell: Takes a state and the gates [B, H, G, K] of one token to the next state and h
      [B, H, K].
    gates: The part of the gates that the inputs give, [B, T, H, G, K].
    state: A pytree of arrays [B, H, K]. The empty one is zeros.
    segment_ids: Packed documents, or None.

  Returns:
    h of all tokens in the dtype of `gates`, zero at padding, and the last state.
  """

  def step(state, gates):
    state, h = cell(state, gates)
    return state, h.astype(gates.dtype)

  def packed_step(state, token):
    gates, valid, start = token
    valid, start = valid[:, None, None], start[:, None, None]
    state_before = jax.tree.map(lambda s: jnp.where(start, 0, s), state)
    new, h = step(state_before, gates)
    keep = lambda new, old: jnp.where(valid, new, old)
    return jax.tree.map(keep, new, state), jnp.where(valid, h, 0)

  unroll = UNROLL[dispatch.platform()]
  if segment_ids is None:
    state, h = jax.lax.scan(step, state, gates.swapaxes(0, 1), unroll=unroll)
  else:
    valid, starts, _ = segments.parse(segment_ids)
    gates = segments.clear_padding(gates, segment_ids)
    tokens = jax.tree.map(lambda x: x.swapaxes(0, 1), (gates, valid, starts))
    state, h = jax.lax.scan(packed_step, state, tokens, unroll=unroll)
  return h.swapaxes(0, 1), state


def over_time_by_kernel(cell: str, gates, weights, state, segment_ids):
  """Runs a cell of `recurrent_cells` over the tokens.

  Args:
    cell: Its name there.
    gates: The part of the gates that the inputs give, [B, T, H, G, K].
    weights: R of the first gates, which alone see the state.
    state: Arrays [B, H, K], h first.
    segment_ids: Packed documents, or None.

  Returns:
    h of all tokens in the dtype of `gates`, zero at padding, and the arrays of the last
    state.
  """
  valid = starts = None
  if segment_ids is not None:
    valid, starts, _ = segments.parse(segment_ids)
    gates = segments.clear_padding(gates, segment_ids)
  states = ["BHK"] * len(state)
  h, *state = sharded.over_batch_and_heads(
    functools.partial(recurrent_cells.fused, cell=cell, backend="tpu"),
    (gates, weights, starts, valid, *state),
    ("BTHGK", "HGKK", "BT", "BT", *states),
    ("BTHK", *states),
  )
  return h, state


def by_kernel(cell: str, State) -> dispatch.Form:
  """The form that is `over_time_by_kernel`, for an op of gates, weights and state.

  Args:
    cell: Its name in `recurrent_cells`.
    State: The named tuple of the state.
  """

  def run(gates, weights, state, segment_ids):
    h, state = over_time_by_kernel(cell, gates, weights, state, segment_ids)
    return h, State(*state)

  refusal = lambda gates, weights, state, segment_ids: kernel_refusal(gates, weights)
  return dispatch.Form(run, refusal)


def kernel_refusal(gates, weights) -> str | None:
  """Why `over_time_by_kernel` cannot take these arrays here, or None."""
  return dispatch.no_kernels("tpu") or recurrent_cells.refusal(
    gates, weights, backend="tpu"
  )
