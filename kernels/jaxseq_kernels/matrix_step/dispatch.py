"""What leaves this folder: the differentiable kernel, and why it cannot take a call."""

import jax.numpy as jnp

from jaxseq_kernels.matrix_step import vjp

__all__ = ["fused", "refusal"]

WIDTH = 256  # The largest K: a thread has K / 4 numbers of the state.


def fused(
  q,
  k,
  v,
  state,
  log_decay=None,
  beta=None,
  a=None,
  b=None,
  *,
  scale,
  backend,
  interpret=False,
):
  """One token of a matrix-state recurrence, differentiable (by plain JAX).

      S' = diag(d) S + k v^T + a (S^T b)^T            with a and b, or without
      S' = diag(d) S + beta k (v - S^T (d * k))^T     with beta
      o  = scale S'^T q

  Args:
    q: [B, 1, H, K], float32 or bfloat16.
    k: [B, 1, H, K], likewise.
    v: [B, 1, H, V], likewise.
    state: S, [B, H, K, V] float32.
    log_decay: The logarithm of d, [B, 1, H] or [B, 1, H, K], or None for d = 1.
    beta: [B, 1, H] or None.
    a: [B, 1, H, K] or None; there is no beta then.
    b: [B, 1, H, K], with `a`.
    scale: Of the queries.
    backend: "gpu".
    interpret: True, or the parameters of Pallas's interpreter for the backend.

  Returns:
    o [B, 1, H, V] in the dtype of v, and S' in float32.
  """
  del backend
  return vjp.step(q, k, v, state, log_decay, beta, a, b, scale, interpret)


def refusal(
  q, k, v, state, log_decay=None, beta=None, a=None, b=None, *, scale, backend
) -> str | None:
  """Why `fused` cannot take these arrays, or None."""
  del backend
  if q.shape[1] != 1:
    return f"it takes one token, not {q.shape[1]}"
  optional = dict(log_decay=log_decay, beta=beta, a=a, b=b)
  for name, x in dict(q=q, k=k, v=v, **optional).items():
    if x is not None and x.dtype not in (jnp.float32, jnp.bfloat16):
      return f"it needs float32 or bfloat16, not {x.dtype} {name}"
  if state.dtype != jnp.float32:
    return f"it needs a state in float32, not {state.dtype}"
  K, V = state.shape[-2:]
  if K % 32 or V % 32:
    return f"it needs K and V in multiples of 32, not {K} and {V}"
  if K > WIDTH:
    return f"it needs K of at most {WIDTH}, not {K}"
  if not isinstance(scale, (int, float)):
    return f"it needs a scale that is a number, not {scale}"
  return None
