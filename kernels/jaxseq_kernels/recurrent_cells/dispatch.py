"""What leaves this folder: the differentiable kernel, and why it cannot take a call."""

import jax.numpy as jnp

from jaxseq_kernels.matrix_states import pad, up
from jaxseq_kernels.recurrent_cells import vjp

__all__ = ["fused", "refusal"]

LANES = 128
ROWS = 256  # Tokens times batch of a block, at K = 256 and 4 gates: 
WEIGHTS = 8 << 20  # Bytes of a head's weights, half of what a kernel may hold in VMEM.


def fused(gates, weights, starts, valid, *state, cell, backend, interpret=False):
  """state_t = cell(state_{t-1}, x_t + (R h_{t-1}, 0)), differentiable; see `cells`.

  Args:
    gates: x, [B, T, H, G, K], float32 or bfloat16. Finite at padding.
    weights: R, [H, N, K, K], the axis of h last, N <= G. The product is in their
      dtype, float32 or bfloat16.
    starts: [B, T] bool, where the state is dropped first, or None for nowhere.
    valid: [B, T] bool; other tokens leave the state as it is. None for all.
    *state: [B, H, K] float32 each, before the first token; h is the first.
    cell: A key of `cells.CELLS`.
    backend: "tpu".
    interpret: True, or the parameters of Pallas's interpreter for the backend.

  Returns:
    h [B, T, H, K] in the dtype of the gates, zero at padding, and the arrays of the
    last state.
  """
  B, T, H, G, K = gates.shape
  block = TB, BB = _block(gates, weights, len(state))
  sizes = up(B, BB), up(T, TB), H, G, up(K, LANES)
  x = pad(gates, *sizes).swapaxes(0, 1).reshape(sizes[1], sizes[0], -1)
  N = weights.shape[1]
  weights = pad(weights, H, N, sizes[4], sizes[4]).reshape(H, -1, sizes[4])
  first = jnp.stack([pad(s, sizes[0], H, sizes[4]) for s in state])
  first = first.reshape(len(state), sizes[0], -1)
  marks = _marks(starts, valid, B, T, block)
  h, last = vjp.run(x, weights, marks, first, cell, block, interpret)
  h = h.reshape(sizes[1], sizes[0], H, -1).swapaxes(0, 1)
  last = last.reshape(len(state), sizes[0], H, -1)
  return h[:B, :T, :, :K], *last[:, :B, :, :K]


def refusal(gates, weights, starts, valid, *state, cell, backend) -> str | None:
  """Why `fused` cannot take these arrays, or None."""
  for name, x in dict(gates=gates, weights=weights).items():
    if x.dtype not in (jnp.float32, jnp.bfloat16):
      return f"it needs float32 or bfloat16, not {x.dtype} {name}"
  size = up(weights.shape[-1], LANES) ** 2 * weights.shape[1] * weights.dtype.itemsize
  if size > WEIGHTS:
    return (
      f"it needs the weights of a head in VMEM, at most {WEIGHTS >> 20} MiB, and these "
      f"are {size / 2**20:.1f} MiB"
    )
  return None


def _block(gates, weights, S):
  """Tokens and rows of the batch of a block."""
  B, T, _, G, K = gates.shape
  rows = 8 * 4 // gates.dtype.itemsize  # A tile.
  BB = min(up(B, rows), 128)
  TB = max(1, min(16, 256 * 256 // (BB * up(K, LANES)), T))
  return TB, BB


def _marks(starts, valid, B, T, block):
  TB, BB = block
  kind = jnp.float32
  if starts is None and T % TB == 0:
    return jnp.ones((TB, up(B, BB), LANES), kind)
  starts = jnp.zeros((B, T), bool) if starts is None else starts
  valid = jnp.ones((B, T), bool) if valid is None else valid
  marks = pad(valid.astype(kind) + (starts & valid), up(B, BB), up(T, TB)).T
  return jnp.broadcast_to(marks[..., None], (*marks.shape, LANES))
