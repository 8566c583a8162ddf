"""TPU kernel of the delta rule with decays by channel, KDA. See `pallas_tpu_chunks`.

Of a chunk of C tokens, G_i the sum of log decays from its start to i and with it, as in
Kimi Linear (arXiv:2510.26692, sec. 3),

    A_ij = sum_c q_ic k_jc exp(G_ic - G_jc), j <= i
    M_ij = beta_i sum_c k_ic k_jc exp(G_ic - G_jc), j < i
    U = (I + M)^-1 beta (v - (k exp(G)) S)
    o = (q exp(G)) S + A U
    S' = exp(G_C) S + (k exp(G_C - G))^T U
"""

import jax.numpy as jnp

from jaxseq_kernels import pallas_tpu_chunks as chunks

__all__ = ["fused"]


def chunk(S, q, k, v, g, beta, *, documents, dot):
  """The rule, of one head."""
  g, beta = jnp.maximum(g, chunks.LEAST), chunks.column(beta)
  read = jnp.exp(chunks.since_start(g, dot)) * documents.read()
  write = jnp.exp(chunks.until_end(g, dot)) * documents.write()
  (A,), (M,) = chunks.scores([q, k], [k], g, dot)
  own = jnp.sum(q.astype(jnp.float32) * k, axis=1, keepdims=True)
  A = jnp.where(documents.mask(own=True), A + chunks.diagonal(own), 0.0)
  M = jnp.where(documents.mask(own=False), beta * M, 0.0)
  U = beta * (v - dot("nn", k * read, S))
  U = dot.fine("nn", chunks.inverse(M, dot), U)
  o = dot("nn", A, U) + dot("nn", q * read, S)
  keeps = jnp.exp(jnp.sum(g, axis=0, keepdims=True)) * documents.keeps()
  return o, chunks.column(keeps) * S + dot("tn", k * write, U)


def fused(q, k, v, log_decay, beta, state, starts, valid, *, scale, interpret):
  """See `dispatch.fused`."""
  return chunks.fused(
    chunk,
    [q, k, v, log_decay],
    [beta],
    (state, starts, valid),
    scale=scale,
    interpret=interpret,
  )
