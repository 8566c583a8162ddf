"""The step in plain JAX: the oracle of the kernel's tests, and its gradient."""

import jax.numpy as jnp

__all__ = ["forward"]


def forward(q, k, v, state, log_decay, beta, a, b, *, scale):
  """o = scale S'^T q and S', in the state's dtype.

      S' = diag(d) S + k v^T + a (S^T b)^T            with a and b, or without
      S' = diag(d) S + beta k (v - S^T (d * k))^T     with beta

  Args:
    q: [B, 1, H, K].
    k: [B, 1, H, K].
    v: [B, 1, H, V].
    state: S, [B, H, K, V].
    log_decay: The logarithm of d, [B, 1, H] or [B, 1, H, K], or None for d = 1.
    beta: [B, 1, H] or None.
    a: [B, 1, H, K] or None.
    b: [B, 1, H, K] or None.
    scale: Of the queries.

  Returns:
    o [B, 1, H, V] in the dtype of v, and S'.
  """
  wide = lambda x: None if x is None else x[:, 0].astype(state.dtype)
  log_decay, beta, a, b = (wide(x) for x in (log_decay, beta, a, b))
  wide_q, k, u = (wide(x) for x in (q, k, v))
  read = lambda x, S: jnp.sum(x[..., None] * S, axis=-2)
  write = lambda x, y: x[..., None] * y[..., None, :]

  S = state
  if log_decay is not None:
    d = jnp.exp(log_decay)
    S = (d[..., None] if d.ndim == 3 else d[..., None, None]) * S
  if beta is not None:
    u = beta[..., None] * (u - read(k, S))
  S = S + write(k, u)
  if a is not None:
    S = S + write(a, read(b, state))
  return (scale * read(wide_q, S))[:, None].astype(v.dtype), S
