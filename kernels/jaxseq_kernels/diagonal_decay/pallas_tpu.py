"""TPU kernel of the linear recurrence with decays by channel. See `pallas_tpu_chunks`.

Of a chunk of C tokens, G_i the sum of log decays from its start to i and with it,

    A_ij = sum_c q_ic k_jc exp(G_ic - G_jc), j <= i
    o = (q exp(G)) S + A v
    S' = exp(G_C) S + (k exp(G_C - G))^T v
"""

from jaxseq_kernels import pallas_tpu_chunks as chunks

__all__ = ["chunk"]


def chunk(S, q, k, v, g, *, documents, dot):
  """The rule, of one head."""
  _, sums, read, write, keeps = chunks.shares_by_channel(g, documents, dot)
  ((A,),) = chunks.scores([q], [k], sums, dot, dot)
  A = chunks.with_own(A, q, k, documents)
  o = dot("nn", A, v) + dot("nn", q * read, S)
  return o, keeps * S + dot("tn", k * write, v)
