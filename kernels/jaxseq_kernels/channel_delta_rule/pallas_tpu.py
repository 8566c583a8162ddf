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

__all__ = ["chunk"]


def chunk(S, q, k, v, g, beta, *, documents, dot):
  """The rule, of one head."""
  _, sums, read, write, keeps = chunks.shares_by_channel(g, documents, dot)
  beta = chunks.column(beta)
  (A,), (M,) = chunks.scores([q, k], [k], sums, dot, dot.pairs)
  A = chunks.with_own(A, q, k, documents)
  M = jnp.where(documents.mask(own=False), beta * M, 0.0)
  U = beta * (v - dot.fine("nn", k * read, S))
  U = dot.fine("nn", chunks.inverse(M, dot), U)
  o = dot("nn", A, U) + dot("nn", q * read, S)
  return o, keeps * S + dot.fine("tn", k * write, U)
