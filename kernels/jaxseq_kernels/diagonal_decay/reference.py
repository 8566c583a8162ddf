"""The recurrence, token by token: the oracle of the kernels' tests."""

import jax.numpy as jnp

from jaxseq_kernels import matrix_states

__all__ = ["forward"]


def forward(q, k, v, log_decay, state, starts, valid, *, scale):
  """S_t = diag(exp(g_t)) S_{t-1} + k_t v_t^T, g [B, T, H, K].

  See `matrix_states.by_token`.
  """

  def update(S, k, v, g):
    return jnp.exp(g)[..., None] * S + k[..., :, None] * v[..., None, :]

  return matrix_states.by_token(
    update, q, k, v, (log_decay,), state, starts, valid, scale=scale
  )
