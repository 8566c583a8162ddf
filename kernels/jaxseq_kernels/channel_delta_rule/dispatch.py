"""What leaves this folder: the differentiable kernel, and why it cannot take a call."""

from jaxseq_kernels import matrix_states
from jaxseq_kernels.dplr import dispatch as dplr

__all__ = ["fused", "refusal"]


def fused(
  q, k, v, log_decay, beta, state, starts, valid, *, scale, backend, interpret=False
):
  """S_t = (I - beta_t k_t k_t^T) diag(exp(g_t)) S_{t-1} + beta_t k_t v_t^T.

  o_t = scale S_t^T q_t. Differentiable.

  Args:
    q: [B, T, H, K] bfloat16; on a TPU float32 as well, as are k and v.
    k: [B, T, H, K].
    v: [B, T, H, V].
    log_decay: [B, T, H, K], not positive.
    beta: [B, T, H].
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
    from jaxseq_kernels.channel_delta_rule import pallas_tpu

    packed, options = (state, starts, valid), dict(scale=scale, interpret=interpret)
    vectors, scalars = [q, k, v, log_decay], [beta]
    return pallas_tpu_chunks.fused(
      pallas_tpu.chunk, vectors, scalars, packed, **options
    )
  return dplr.by_chunk(
    q, k, v, None, None, log_decay, beta, state, starts, valid, scale, interpret
  )


def refusal(
  q, k, v, log_decay, beta, state, starts, valid, *, scale, backend
) -> str | None:
  """Why `fused` cannot take these arrays, or None."""
  return matrix_states.refusal(q, k, v, scale, backend)
