"""TPU kernel of the linear recurrence with a scalar decay. See `pallas_tpu_chunks`.

Of a chunk of C tokens, G_i the sum of log decays from its start to i and with it, and
D_ij = exp(G_i - G_j) for j <= i,

    o = exp(G) q S + (q k^T * D) v
    S' = exp(G_C) S + (exp(G_C - G) k)^T v
"""

from jaxseq_kernels import pallas_tpu_chunks as chunks

__all__ = ["chunk"]


def chunk(S, q, k, v, g, *, documents, dot):
  """The rule, of one head."""
  g, read, write, keeps = chunks.shares_by_token(g, documents)
  D = chunks.masked_exp(chunks.stretches(g, dot), documents.mask(own=True))
  o = dot("nn", dot("nt", q, k) * D, v) + read * dot("nn", q, S)
  return o, keeps * S + dot("tn", k, write * v)
