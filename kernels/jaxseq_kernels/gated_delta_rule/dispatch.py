"""What leaves this folder: the differentiable kernel, and why it cannot take a call."""

import math

import jax.numpy as jnp

from jaxseq_kernels import matrix_states
from jaxseq_kernels.gated_delta_rule import vjp
from jaxseq_kernels.matrix_states import CHUNK, LOWEST, pad, up

__all__ = ["fused", "refusal"]


def fused(
  q, k, v, log_decay, beta, state, starts, valid, *, scale, backend, interpret=False
):
  """S_t = exp(g_t) (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T, o = s S_t^T q_t.

  Differentiable.

  Args:
    q: [B, T, H, K] bfloat16; on a TPU float32 as well, as are k and v.
    k: [B, T, H, K].
    v: [B, T, H, V].
    log_decay: [B, T, H], or None for no decay.
    beta: [B, T, H].
    state: [B, H, K, V] float32, before the first token, or None for zeros.
    starts: [B, T] bool, where the state is dropped first, or None for nowhere.
    valid: [B, T] bool; other tokens read 0 and write nothing. None for all.
    scale: Of the queries, positive.
    backend: "gpu" or "tpu".
    interpret: True, or the parameters of Pallas's interpreter for the backend.
      Interpreted warpgroups of a GPU wait for each other, and XLA has too few threads
      for them on a CPU of two cores but with more devices: `jax_num_cpu_devices` of 8.

  Returns:
    o [B, T, H, V] in the dtype of v and the last state, [B, H, K, V] in float32.
  """
  if backend == "tpu":
    from jaxseq_kernels import pallas_tpu_chunks
    from jaxseq_kernels.gated_delta_rule import pallas_tpu

    packed, options = (state, starts, valid), dict(scale=scale, interpret=interpret)
    g = jnp.zeros_like(beta) if log_decay is None else log_decay
    vectors, scalars = [q, k, v], [g, beta]
    return pallas_tpu_chunks.fused(
      pallas_tpu.chunk, vectors, scalars, packed, **options
    )
  B, T, H, K = q.shape
  V = v.shape[-1]
  N = -(-T // CHUNK)
  g, beta = jnp.zeros((B, T, H)), beta.astype(jnp.float32)
  if log_decay is not None:
    g = jnp.maximum(log_decay.astype(jnp.float32) * math.log2(math.e), LOWEST)
  if starts is not None:
    g = jnp.where(starts[..., None], LOWEST, g)
  if valid is not None:
    g, beta = (jnp.where(valid[..., None], x, 0) for x in (g, beta))
    q = jnp.where(valid[..., None, None], q, 0)
  q, k, v = (pad(x, B, T, H, up(x.shape[-1], 8)) for x in (q, k, v))
  if state is not None:
    state = pad(state.swapaxes(2, 3), B, H, up(V, 64), up(K, 64))
  pieces = matrix_states.count_pieces(B * H * (up(max(K, V), 64) // 64), N)
  g, beta = map(matrix_states.in_chunks, (g, beta))
  o, last = vjp.scan(q, k, v, g, beta, state, scale, pieces, interpret)
  return o[..., :V], last.swapaxes(2, 3)[:, :, :K, :V]


def refusal(
  q, k, v, log_decay, beta, state, starts, valid, *, scale, backend
) -> str | None:
  """Why `fused` cannot take these arrays, or None."""
  return matrix_states.refusal(q, k, v, scale, backend)
