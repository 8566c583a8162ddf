"""What leaves this folder: the differentiable kernel, and why it cannot take a call."""

import jax.numpy as jnp

from jaxseq_kernels.matrix_states import pad, up
from jaxseq_kernels.recurrent_cells import vjp

__all__ = ["fused", "refusal"]

LANES = 128
HEADS = 4  # Of a program at most: while one waits for its product, another computes.
ROWS = 64  # Of the batch, of all heads of a program: more fill the matrix unit alone.
TOKENS = 16  # Of a block at most.
VMEM = 13 << 20  # Bytes of a kernel's weights and blocks, of the 16 MiB that it gets.
WEIGHTS = 8 << 20  # Bytes of a head's weights; the rest is for a block's tokens.


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
  block = TB, BB, _ = _block(gates, weights, len(state))
  rows, tokens, lanes = up(B, BB), up(T, TB), up(K, LANES)
  x = pad(gates, rows, tokens, H, G, lanes).swapaxes(0, 1).reshape(tokens, rows, -1)
  weights = pad(weights, H, weights.shape[1], lanes, lanes).reshape(H, -1, lanes)
  first = jnp.stack([pad(s, rows, H, lanes) for s in state])
  first = first.reshape(len(state), rows, -1)
  marks = _marks(starts, valid, B, T, block)
  h, last = vjp.run(x, weights, marks, first, cell, block, interpret)
  h = h.reshape(tokens, rows, H, lanes).swapaxes(0, 1)
  last = last.reshape(len(state), rows, H, lanes)
  return h[:B, :T, :, :K], *last[:, :B, :, :K]


def refusal(gates, weights, *, backend) -> str | None:
  """Why `fused` cannot take these arrays, or None."""
  for name, x in dict(gates=gates, weights=weights).items():
    if x.dtype not in (jnp.float32, jnp.bfloat16):
      return f"it needs float32 or bfloat16, not {x.dtype} {name}"
  size = _weights_size(weights)
  if size > WEIGHTS:
    return (
      f"it holds the weights of a head in VMEM, at most {WEIGHTS >> 20} MiB, and these "
      f"are {size / 2**20:.1f} MiB"
    )
  return None


def _weights_size(weights):
  """Bytes of those of one head, padded."""
  _, N, K, _ = weights.shape
  return N * up(K, LANES) ** 2 * weights.dtype.itemsize


def _block(gates, weights, S):
  """Tokens, rows of the batch and heads of a block."""
  B, _, H, G, K = gates.shape
  kind, size = gates.dtype.itemsize, _weights_size(weights)
  tile = 32 // kind
  BB = min(up(B, tile), ROWS)
  fits = lambda n: H % n == 0 and n * BB <= ROWS and 2 * n * size <= WEIGHTS
  HB = next(filter(fits, (HEADS, HEADS // 2)), 1)
  # Backward, a token's row has its gates and their gradients, its states and the
  # gradient of h, twice buffered, and its gates once more in float32.
  row = HB * up(K, LANES) * (2 * (2 * G * kind + 4 * S + kind) + 4 * G) + 8 * LANES
  rows = (VMEM - HB * size) // row
  BB = min(BB, rows // tile * tile)
  TB = min(TOKENS, rows // BB)
  return 1 << (TB.bit_length() - 1), BB, HB


def _marks(starts, valid, B, T, block):
  """What the kernels are told of each token; see `pallas_tpu`."""
  TB, BB, _ = block
  if starts is None and valid is None and T % TB == 0:
    return jnp.ones((TB, up(B, BB), LANES), jnp.float32)
  starts = jnp.zeros((B, T), bool) if starts is None else starts
  valid = jnp.ones((B, T), bool) if valid is None else valid
  marks = valid.astype(jnp.float32) + (starts & valid)
  marks = pad(marks, up(B, BB), up(T, TB)).T
  return jnp.broadcast_to(marks[..., None], (*marks.shape, LANES))
