"""What leaves this folder: the differentiable kernel, and why it cannot take a call."""

import jax.numpy as jnp

from jaxseq_kernels import matrix_states
from jaxseq_kernels.diagonal_decay import vjp
from jaxseq_kernels.matrix_states import CHUNK, pad, up

__all__ = ["fused", "refusal"]


def fused(
  q,
  k,
  v,
  log_decay,
  state,
  starts,
  valid,
  bonus=None,
  *,
  scale,
  backend,
  interpret=False,
):
  """S_t = diag(exp(g_t)) S_{t-1} + k_t v_t^T, o_t = scale S_t^T q_t, differentiable.

  Args:
    q: [B, T, H, K] bfloat16; on a TPU float32 as well, as are k and v.
    k: [B, T, H, K].
    v: [B, T, H, V].
    log_decay: [B, T, H, K], not positive.
    state: [B, H, K, V] float32, before the first token, or None for zeros.
    starts: [B, T] bool, where the state is dropped first, or None for nowhere.
    valid: [B, T] bool; other tokens read 0 and write nothing. None for all.
    bonus: [H, K], u of o_t = scale (S_{t-1} + diag(u) k_t v_t^T)^T q_t, or None.
    scale: Of the queries, positive.
    backend: "gpu" or "tpu".
    interpret: True, or the parameters of Pallas's interpreter for the backend.

  Returns:
    o [B, T, H, V] in the dtype of v and the last state, [B, H, K, V] in float32.
  """
  g = log_decay.astype(jnp.float32)
  if valid is not None:  # Without q, k and decay a token neither reads nor writes.
    q, k, g = (jnp.where(valid[..., None, None], x, 0) for x in (q, k, g))
  if bonus is None:
    return _scan(q, k, v, g, state, starts, scale, backend, interpret)
  # What a token finds is what the one before it leaves.
  scores = jnp.sum(bonus * q * k.astype(jnp.float32), axis=-1)
  if starts is not None:
    q = jnp.where(starts[..., None, None], 0, q)
  later = jnp.pad(q[:, 1:], ((0, 0), (0, 1), (0, 0), (0, 0)))
  past, last = _scan(later, k, v, g, state, starts, scale, backend, interpret)
  first = jnp.zeros_like(past[:, :1])
  if state is not None:
    first = scale * jnp.einsum("bhk,bhkv->bhv", q[:, 0], state)[:, None]
  past = jnp.concatenate([first, past[:, :-1]], axis=1)
  return (past + scale * scores[..., None] * v).astype(v.dtype), last


def _scan(q, k, v, g, state, starts, scale, backend, interpret):
  """Pads, marks the documents of each chunk, and cuts into pieces."""
  if backend == "tpu":
    from jaxseq_kernels import pallas_tpu_chunks
    from jaxseq_kernels.diagonal_decay import pallas_tpu

    packed, options = (state, starts, None), dict(scale=scale, interpret=interpret)
    vectors = [q, k, v, g]
    return pallas_tpu_chunks.fused(pallas_tpu.chunk, vectors, [], packed, **options)
  B, T, H, K = q.shape
  V = v.shape[-1]
  N = -(-T // CHUNK)
  docs = matrix_states.documents(starts, B, T)
  # Zeros at the end do as little as tokens that are not there.
  q, k, v = (pad(x, B, T, H, up(x.shape[-1], 8)) for x in (q, k, v))
  g = pad(g, B, up(T, 8), H, max(64, up(K, 32)))
  if state is not None:
    state = pad(state.swapaxes(2, 3), B, H, up(V, 64), up(K, 64))
  pieces = matrix_states.count_pieces(B * H * (up(V, 64) // 64), N)
  o, last = vjp.scan(q, k, v, g, docs, state, scale, pieces, interpret)
  return o[..., :V], last.swapaxes(2, 3)[:, :, :K, :V]


def refusal(
  q, k, v, log_decay, state, starts, valid, bonus=None, *, scale, backend
) -> str | None:
  """Why `fused` cannot take these arrays, or None."""
  return matrix_states.refusal(q, k, v, scale, backend)
