"""What leaves this folder: the differentiable kernel, and why it cannot take a call."""

import math

import jax
import jax.numpy as jnp

from jaxseq_kernels import matrix_states
from jaxseq_kernels.matrix_states import CHUNK, LOWEST, pad, up
from jaxseq_kernels.scalar_decay import vjp

__all__ = ["fused", "refusal"]


def fused(q, k, v, log_decay, state, starts, valid, *, scale, backend, interpret=False):
  """S_t = exp(g_t) S_{t-1} + k_t v_t^T, o_t = scale S_t^T q_t, differentiable.

  Args:
    q: [B, T, H, K] bfloat16; on a TPU float32 as well, as are k and v.
    k: [B, T, H, K].
    v: [B, T, H, V].
    log_decay: [B, T, H], at most 0 but for rounding.
    state: [B, H, K, V] float32, before the first token, or None for zeros.
    starts: [B, T] bool, where the state is dropped first, or None for nowhere.
    valid: [B, T] bool; other tokens read 0 and write nothing. None for all.
    scale: Of the queries, positive.
    backend: "gpu" or "tpu".
    interpret: True, or the parameters of Pallas's interpreter for the backend.

  Returns:
    o [B, T, H, V] in the dtype of v and the last state, [B, H, K, V] in float32.
  """
  if backend == "tpu":
    from jaxseq_kernels import pallas_tpu_chunks
    from jaxseq_kernels.scalar_decay import pallas_tpu

    packed, options = (state, starts, valid), dict(scale=scale, interpret=interpret)
    vectors, scalars = [q, k, v], [log_decay]
    return pallas_tpu_chunks.fused(
      pallas_tpu.chunk, vectors, scalars, packed, **options
    )
  B, T, H, K = q.shape
  V = v.shape[-1]
  N = -(-T // CHUNK)
  g = jnp.maximum(log_decay.astype(jnp.float32) * math.log2(math.e), LOWEST)
  # What rounding has left above 0 counts as 0, for what is positive has a meaning here.
  g -= jax.lax.stop_gradient(jnp.maximum(g, 0))
  if starts is not None:
    g = jnp.where(starts[..., None], LOWEST, g)
  if valid is not None:
    g = jnp.where(valid[..., None], g, 1.0)
  # A token that is not there neither reads nor writes.
  g = jnp.pad(g, ((0, 0), (0, N * CHUNK - T), (0, 0)), constant_values=1.0)
  g = matrix_states.in_chunks(g)
  q, k, v = (pad(x, B, T, H, up(x.shape[-1], 8)) for x in (q, k, v))
  if state is not None:
    state = pad(state.swapaxes(2, 3), B, H, up(V, 64), up(K, 64))
  pieces = matrix_states.count_pieces(B * H * (up(max(K, V), 64) // 64), N)
  o, last = vjp.scan(q, k, v, g, state, scale, pieces, interpret)
  return o[..., :V], last.swapaxes(2, 3)[:, :, :K, :V]


def refusal(q, k, v, log_decay, state, starts, valid, *, scale, backend) -> str | None:
  """Why `fused` cannot take these arrays, or None."""
  return matrix_states.refusal(q, k, v, scale, backend)
