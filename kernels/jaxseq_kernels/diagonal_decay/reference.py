"""The recurrence, token by token: the oracle of the kernels' tests."""

import jax
import jax.numpy as jnp

__all__ = ["forward"]


def forward(q, k, v, log_decay, state, starts, valid, *, scale):
  """S_t = diag(exp(g_t)) S_{t-1} + k_t v_t^T, o_t = scale S_t^T q_t.

  All in the state's dtype.

  Args:
    q: [B, T, H, K].
    k: [B, T, H, K].
    v: [B, T, H, V].
    log_decay: [B, T, H, K].
    state: [B, H, K, V], before the first token.
    starts: [B, T] bool, where the state is dropped first.
    valid: [B, T] bool; other tokens read 0 and write nothing.
    scale: Of the queries.

  Returns:
    o [B, T, H, V] and the last state.
  """

  def step(S, token):
    q, k, v, g, start, valid = token
    here = lambda x, ndim=4: x.reshape(x.shape + (1,) * (ndim - x.ndim))
    decay = jnp.where(here(valid), jnp.exp(g)[..., None], 1)
    S = jnp.where(here(start), 0, S) * decay
    S = S + jnp.where(here(valid), k[..., :, None] * v[..., None, :], 0)
    o = scale * jnp.einsum("bhk,bhkv->bhv", q, S, precision="highest")
    return S, jnp.where(here(valid, 3), o, 0)

  arrays = (*(x.astype(state.dtype) for x in (q, k, v, log_decay)), starts, valid)
  S, o = jax.lax.scan(step, state, tuple(x.swapaxes(0, 1) for x in arrays))
  return o.swapaxes(0, 1), S
