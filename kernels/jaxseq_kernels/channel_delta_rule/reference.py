"""The recurrence, token by token: the oracle of the kernels' tests."""

import jax.numpy as jnp

from jaxseq_kernels import matrix_states

__all__ = ["forward"]


def forward(q, k, v, log_decay, beta, state, starts, valid, *, scale):
  """S_t = (I - beta_t k_t k_t^T) diag(exp(g_t)) S_{t-1} + beta_t k_t v_t^T.

  g [B, T, H, K] and beta [B, T, H]; see `matrix_states.by_token`.
  """

  def update(S, k, v, g, beta):
    S = jnp.exp(g)[..., None] * S
    read = jnp.einsum("bhk,bhkv->bhv", k, S, precision="highest")
    u = beta[..., None] * (v - read)
    return S + k[..., :, None] * u[..., None, :]

  return matrix_states.by_token(
    update, q, k, v, (log_decay, beta), state, starts, valid, scale=scale
  )
