"""What leaves this folder: the differentiable kernel, and why it cannot take a call."""

import jax.numpy as jnp

from jaxseq_kernels import matrix_states
from jaxseq_kernels.dplr import vjp
from jaxseq_kernels.matrix_states import CHUNK, pad, up

__all__ = ["by_chunk", "fused", "refusal"]


def fused(
  q, k, v, a, b, log_decay, state, starts, valid, *, scale, backend, interpret=False
):
  """S_t = (diag(exp(g_t)) + a_t b_t^T) S_{t-1} + k_t v_t^T, o_t = scale S_t^T q_t.

  Differentiable.

  Args:
    q: [B, T, H, K] bfloat16; on a TPU float32 as well, as are k and v.
    k: [B, T, H, K].
    v: [B, T, H, V].
    a: [B, T, H, K], rounded to the dtype of v as is b.
    b: [B, T, H, K].
    log_decay: [B, T, H, K], not positive.
    state: [B, H, K, V] float32, before the first token, or None for zeros.
    starts: [B, T] bool, where the state is dropped first, or None for nowhere.
    valid: [B, T] bool; other tokens read 0 and write nothing. None for all.
    scale: Of the queries, positive.
    backend: "gpu" or "tpu".
    interpret: True, or the parameters of Pallas's interpreter for the backend.

  Returns:
    o [B, T, H, V] in the dtype of v and the last state, [B, H, K, V] in float32.
  """
  a, b = (x.astype(v.dtype) for x in (a, b))
  if backend == "tpu":
    from jaxseq_kernels import pallas_tpu_chunks
    from jaxseq_kernels.dplr import pallas_tpu

    packed, options = (state, starts, valid), dict(scale=scale, interpret=interpret)
    vectors, scalars = [q, k, v, a, b, log_decay], []
    return pallas_tpu_chunks.fused(
      pallas_tpu.chunk, vectors, scalars, packed, **options
    )
  return by_chunk(
    q, k, v, b, a, log_decay, None, state, starts, valid, scale, interpret
  )


def by_chunk(q, k, v, b, a, g, beta, state, starts, valid, scale, interpret):
  """Pads, marks the documents of each chunk, and cuts into pieces: `vjp.scan`."""
  B, T, H, K = q.shape
  V = v.shape[-1]
  N = -(-T // CHUNK)
  # What is not there, and zeros at the end, neither reads nor writes nor decays.
  there = lambda x: x if valid is None else jnp.where(valid[..., None, None], x, 0)
  keys = lambda x: None if x is None else pad(there(x), B, T, H, up(K, 8))
  q, k, b, a = map(keys, (q, k, b, a))
  g = pad(there(g.astype(jnp.float32)), B, up(T, 8), H, max(64, up(K, 32)))
  v = pad(v, B, T, H, up(V, 8))
  if beta is not None:
    beta = beta.astype(jnp.float32)
    beta = beta if valid is None else jnp.where(valid[..., None], beta, 0)
    beta = matrix_states.in_chunks(beta)
  docs = matrix_states.documents(starts, B, T)
  if state is not None:
    state = pad(state.swapaxes(2, 3), B, H, up(V, 64), up(K, 64))
  pieces = matrix_states.count_pieces(B * H * (up(V, 64) // 64), N)
  o, last = vjp.scan(q, k, v, g, docs, b, a, beta, state, scale, pieces, interpret)
  return o[..., :V], last.swapaxes(2, 3)[:, :, :K, :V]


def refusal(
  q, k, v, a, b, log_decay, state, starts, valid, *, scale, backend
) -> str | None:
  """Why `fused` cannot take these arrays, or None."""
  return matrix_states.refusal(q, k, v, scale, backend)
