"""The recurrence, token by token: the oracle of the kernels' tests."""

import jax.numpy as jnp

from jaxseq_kernels import matrix_states

__all__ = ["forward"]


def forward(q, k, v, a, b, log_decay, state, starts, valid, *, scale):
  """S_t = (diag(exp(g_t)) + a_t b_t^T) S_{t-1} + k_t v_t^T.

  a, b and g [B, T, H, K]; see `matrix_states.by_token`.
  """

  def update(S, k, v, a, b, g):
    z = jnp.einsum("bhk,bhkv->bhv", b, S, precision="highest")
    write = a[..., :, None] * z[..., None, :] + k[..., :, None] * v[..., None, :]
    return jnp.exp(g)[..., None] * S + write

  return matrix_states.by_token(
    update, q, k, v, (a, b, log_decay), state, starts, valid, scale=scale
  )
