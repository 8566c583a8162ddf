"""TPU kernel of the linear recurrence with a scalar decay. See `pallas_tpu_chunks`.

Of a chunk of C tokens, G_i the sum of log decays from its start to i and with it, and
D_ij = exp(G_i - G_j) for j <= i,

    o = exp(G) q S + (q k^T * D) v
    S' = exp(G_C) S + (exp(G_C - G) k)^T v
"""

import jax.numpy as jnp

from jaxseq_kernels import pallas_tpu_chunks as chunks

__all__ = ["fused"]


def chunk(S, q, k, v, g, *, documents, dot):
  """The rule, of one head."""
  g = jnp.maximum(g, chunks.LOWEST)
  D = chunks.exp(chunks.stretches(g, dot), documents.mask(own=True))
  read = chunks.exp(chunks.since(g)) * documents.read()
  write = chunks.exp(chunks.until(g)) * documents.write()
  o = dot("nn", dot("nt", q, k) * D, v) + read * dot("nn", q, S)
  keeps = chunks.exp(chunks.total(g)) * documents.keeps()
  return o, keeps * S + dot("tn", k, write * v)


def fused(q, k, v, log_decay, state, starts, valid, *, scale, interpret):
  """See `dispatch.fused`."""
  return chunks.fused(
    chunk,
    [q, k, v],
    [log_decay],
    (state, starts, valid),
    scale=scale,
    interpret=interpret,
  )
