"""The recurrence in the kernels' layout, one token at a time.

h_t = a_t h_{t-1} + x_t        elementwise, real or complex
"""

import jax
import jax.numpy as jnp

__all__ = ["forward"]


def forward(a, x, state):
  """a [B, T, D] or [D], x [B, T, D], state [B, D] -> h [B, T, D], last [B, D].

  All in the dtype given.
  """

  def step(h, token):
    a, x = token
    h = a * h + x
    return h, h

  by_time = (jnp.broadcast_to(a, x.shape).swapaxes(0, 1), x.swapaxes(0, 1))
  last, h = jax.lax.scan(step, state, by_time)
  return h.swapaxes(0, 1), last
