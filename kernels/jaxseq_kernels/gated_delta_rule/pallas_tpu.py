"""TPU kernel of the delta rule with a scalar decay. See `pallas_tpu_chunks`.

Of a chunk of C tokens, G_i the sum of log decays from its start to i and with it, and
D_ij = exp(G_i - G_j) for j <= i, as in Gated DeltaNet (arXiv:2412.06464, sec. 3.3),

    U = (I + M)^-1 beta (v - exp(G) k S)         M_ij = beta_i (k_i . k_j) D_ij, j < i
    o = exp(G) q S + (q k^T * D) U
    S' = exp(G_C) S + (exp(G_C - G) k)^T U
"""

from jaxseq_kernels import pallas_tpu_chunks as chunks

__all__ = ["chunk"]


def chunk(S, q, k, v, g, beta, *, documents, dot):
  """The rule, of one head."""
  g, read, write, keeps = chunks.shares_by_token(g, documents)
  E, beta = chunks.stretches(g, dot), chunks.column(beta)
  D, M_D = (chunks.masked_exp(E, documents.mask(own=own)) for own in (True, False))
  X = chunks.inverse(beta * dot("nt", k, k) * M_D, dot)
  U = dot.fine("nn", X, beta * (v - read * dot("nn", k, S)))
  o = read * dot("nn", q, S) + dot("nn", dot("nt", q, k) * D, U)
  return o, keeps * S + dot.fine("tn", k, write * U)
