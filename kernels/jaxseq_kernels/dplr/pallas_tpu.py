"""TPU kernel of the rule of RWKV-7. See `pallas_tpu_chunks`.

Of a chunk of C tokens, G_i the sum of log decays from its start to i and with it, G-_i
without (RWKV-7, arXiv:2503.14456, eq. 16 and 17),

    P_ij = sum_c q_ic a_jc exp(G_ic - G_jc)     O likewise, of q and k, j <= i
    M_ij = sum_c b_ic a_jc exp(G-_ic - G_jc)    L likewise, of b and k, j < i
    Z = (I - M)^-1 (L v + (b exp(G-)) S)
    o = (q exp(G)) S + P Z + O v
    S' = exp(G_C) S + (a exp(G_C - G))^T Z + (k exp(G_C - G))^T v
"""

import jax.numpy as jnp

from jaxseq_kernels import pallas_tpu_chunks as chunks

__all__ = ["chunk"]


def chunk(S, q, k, v, a, b, g, *, documents, dot):
  """The rule, of one head."""
  g, sums, read, write, keeps = chunks.shares_by_channel(g, documents, dot)
  b = b * jnp.exp(-g)  # It reads what its own decay has not yet taken from.
  (P, O), (M, L) = chunks.scores([q, b], [a, k], sums, dot, dot.pairs)
  P, O = (chunks.with_own(A, q, x, documents) for A, x in ((P, a), (O, k)))
  M, L = (jnp.where(documents.mask(own=False), x, 0.0) for x in (M, L))
  Z = dot("nn", L, v) + dot("nn", b * read, S)
  Z = dot.fine("nn", chunks.inverse(-M, dot), Z)
  o = dot("nn", P, Z) + dot("nn", O, v) + dot("nn", q * read, S)
  S = keeps * S + dot("tn", a * write, Z)
  return o, S + dot("tn", k * write, v)
