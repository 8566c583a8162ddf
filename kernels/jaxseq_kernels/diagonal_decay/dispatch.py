"""What leaves this folder: the differentiable kernel, and why it cannot take a call."""

import jax
import jax.numpy as jnp

from jaxseq_kernels.diagonal_decay import vjp

__all__ = ["fused", "refusal"]

CHUNK = 64
WIDTH = 256  # The largest K and V: a state is [64, K] in a warpgroup's registers.
PROGRAMS = 2 * 132  # That a Hopper GPU runs at a time.


def fused(q, k, v, log_decay, state, starts, valid, *, scale, backend, interpret=False):
  """S_t = diag(exp(g_t)) S_{t-1} + k_t v_t^T, o_t = scale S_t^T q_t, differentiable.

  Args:
    q: [B, T, H, K] bfloat16.
    k: [B, T, H, K] bfloat16.
    v: [B, T, H, V] bfloat16.
    log_decay: [B, T, H, K], not positive.
    state: [B, H, K, V] float32, before the first token, or None for zeros.
    starts: [B, T] bool, where the state is dropped first, or None for nowhere.
    valid: [B, T] bool; other tokens read 0 and write nothing. None for all.
    scale: Of the queries, positive.
    backend: "gpu".
    interpret: True, or the parameters of Pallas's interpreter for the backend.

  Returns:
    o [B, T, H, V] in bfloat16 and the last state, [B, H, K, V] in float32.
  """
  B, T, H, K = q.shape
  V = v.shape[-1]
  up = lambda size, multiple: -(-size // multiple) * multiple
  pad = lambda x, *sizes: jnp.pad(
    x, [(0, size - n) for n, size in zip(x.shape, sizes, strict=True)]
  )
  N = -(-T // CHUNK)
  g = log_decay.astype(jnp.float32)
  if valid is not None:  # Without q, k and decay a token neither reads nor writes.
    q, k, g = (jnp.where(valid[..., None, None], x, 0) for x in (q, k, g))
  docs = jnp.zeros((B, T), bool) if starts is None else starts
  docs = jnp.cumsum(pad(docs, B, N * CHUNK).reshape(B, N, CHUNK), -1, jnp.float32)
  docs = jnp.broadcast_to(docs[:, :, None], (B, N, 2, CHUNK))
  # Zeros at the end do as little as tokens that are not there.
  q, k, g = (pad(x, B, up(T, 8), H, up(K, 32)) for x in (q, k, g))
  v = pad(v, B, up(T, 8), H, up(V, 32))
  if state is not None:
    state = pad(state.swapaxes(2, 3), B, H, up(V, 64), up(K, 64))
  pieces = max(1, min(PROGRAMS // (B * H * (up(V, 64) // 64)), N // 4))
  o, last = vjp.scan(q, k, v, g, docs, state, scale, pieces, interpret)
  return o[:, :T, :, :V], last.swapaxes(2, 3)[:, :, :K, :V]


def refusal(q, k, v, log_decay, state, starts, valid, *, scale, backend) -> str | None:
  """Why `fused` cannot take these arrays, or None."""
  for name, x in dict(q=q, k=k, v=v).items():
    if x.dtype != jnp.bfloat16:
      return f"it needs bfloat16, not {x.dtype} {name}"
    if x.shape[-1] > WIDTH:
      return f"it needs heads of at most {WIDTH}, not {x.shape[-1]} of {name}"
  if isinstance(scale, jax.Array) or not scale > 0:
    return f"it needs a scale that is a positive number, not {scale}"
  return None
