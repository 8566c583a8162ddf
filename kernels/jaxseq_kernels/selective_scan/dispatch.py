"""What leaves this folder: the differentiable kernel, and why it cannot take a call."""

import jax.numpy as jnp

from jaxseq_kernels.selective_scan import vjp

__all__ = ["fused", "refusal"]

# What is padded to a multiple: time of inputs, time of B and C, channels, states.
ROWS, TOKENS, LANES, STATES = 8, 128, 128, 8
MAX_STATES = 32  # The columns of B and C and their gradients then take 8 MB of VMEM.
MAX_WHOLE = 2**17  # N D: three such states stay in VMEM, twice buffered, 3 MB.


def fused(x, dt, A, B, C, state, starts, *, backend, interpret=False):
  """h_t = exp(dt_t A) h_{t-1} + B_t (dt_t x_t), y_t = sum_n C_t h_t, differentiable.

  Args:
    x: [B, T, D], float32 or bfloat16.
    dt: [B, T, D].
    A: [N, D].
    B: [B, T, N].
    C: [B, T, N].
    state: [B, N, D], before the first token.
    starts: [B, T] bool, where the state is dropped first, or None for nowhere.
    backend: "tpu".
    interpret: True, or the parameters of Pallas's interpreter for the backend.

  Returns:
    y [B, T, D] and the last state [B, N, D], both float32.
  """
  del backend  # There is one.
  T, D = x.shape[1:]
  N = len(A)
  width, states = (0, -D % LANES), (0, -N % STATES)
  # A step of 0 keeps the state.
  x, dt = (jnp.pad(y, ((0, 0), (0, -T % ROWS), width)) for y in (x, _float32(dt)))
  by_time = (0, -T % TOKENS)
  B, C = (
    jnp.pad(_float32(y.swapaxes(1, 2)), ((0, 0), states, by_time)) for y in (B, C)
  )
  if starts is not None:
    starts = jnp.pad(starts.astype(jnp.int32), ((0, 0), by_time))[:, None]
  A = jnp.pad(_float32(A), (states, width))
  state = jnp.pad(_float32(state), ((0, 0), states, width))
  y, last = vjp.scan(x, dt, A, B, C, state, starts, interpret)
  return y[:, :T, :D], last[:, :N, :D]


def _float32(x):
  return x.astype(jnp.float32)


def refusal(x, dt, A, B, C, state, starts, *, backend) -> str | None:
  """Why `fused` cannot take these arrays, or None."""
  if x.dtype not in (jnp.float32, jnp.bfloat16):
    return f"it needs float32 or bfloat16, not {x.dtype}"
  if len(A) > MAX_STATES:
    return f"it needs at most {MAX_STATES} states a channel, not {len(A)}"
  if A.size > MAX_WHOLE:
    N, D = A.shape
    return f"it needs at most {MAX_WHOLE} states, not {N} x {D}"
  return None
