"""The selective scan in the kernels' layout, one token at a time.

h_t = exp(dt_t A) h_{t-1} + B_t (dt_t x_t)     state [N, D]
y_t = sum_n C_t h_t
"""

import jax
import jax.numpy as jnp

__all__ = ["forward"]


def forward(x, dt, A, B, C, state, starts):
  """x, dt [B, T, D], A [N, D], B, C [B, T, N], state [B, N, D] -> y, last state.

  `starts` [B, T] bool, where the state is dropped first, or None for nowhere. All in
  the dtype of the state.
  """

  def step(h, token):
    x, dt, B, C, start = token
    a = jnp.where(start[:, None, None], 0, jnp.exp(dt[:, None] * A))
    h = a * h + B[:, :, None] * (dt * x)[:, None]
    return h, jnp.sum(C[:, :, None] * h, axis=1)

  starts = jnp.zeros(x.shape[:2], bool) if starts is None else starts
  tokens = [y.swapaxes(0, 1).astype(state.dtype) for y in (x, dt, B, C)]
  last, y = jax.lax.scan(step, state, (*tokens, starts.T))
  return y.swapaxes(0, 1), last
