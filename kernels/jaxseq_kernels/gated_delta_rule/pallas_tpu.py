"""TPU kernel of the delta rule with a scalar decay. See `pallas_tpu_chunks`.

Of a chunk of C tokens, G_i the sum of log decays from its start to i and with it, and
D_ij = exp(G_i - G_j) for j <= i, as in Gated DeltaNet (arXiv:2412.06464, sec. 3.3),

    U = (I + M)^-1 beta (v - exp(G) k S)         M_ij = beta_i (k_i . k_j) D_ij, j < i
    o = exp(G) q S + (q k^T * D) U
    S' = exp(G_C) S + (exp(G_C - G) k)^T U
"""

import jax.numpy as jnp

from jaxseq_kernels import pallas_tpu_chunks as chunks

__all__ = ["fused"]


def chunk(S, q, k, v, g, beta, *, documents, dot):
  """The rule, of one head."""
  g, beta = jnp.maximum(g, chunks.LOWEST), chunks.column(beta)
  E = chunks.stretches(g, dot)
  D, M_D = (chunks.exp(E, documents.mask(own=own)) for own in (True, False))
  read = chunks.exp(chunks.since(g)) * documents.read()
  write = chunks.exp(chunks.until(g)) * documents.write()
  keeps = chunks.exp(chunks.total(g)) * documents.keeps()
  X = chunks.inverse(beta * dot("nt", k, k) * M_D, dot)
  U = dot.fine("nn", X, beta * (v - read * dot("nn", k, S)))
  o = read * dot("nn", q, S) + dot("nn", dot("nt", q, k) * D, U)
  return o, keeps * S + dot("tn", k, write * U)


def fused(q, k, v, log_decay, beta, state, starts, valid, *, scale, interpret):
  """See `dispatch.fused`."""
  g = jnp.zeros_like(beta) if log_decay is None else log_decay
  return chunks.fused(
    chunk,
    [q, k, v],
    [g, beta],
    (state, starts, valid),
    scale=scale,
    interpret=interpret,
  )
