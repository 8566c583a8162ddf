"""TPU kernel of the linear recurrence with decays by channel. See `pallas_tpu_chunks`.

Of a chunk of C tokens, G_i the sum of log decays from its start to i and with it,

    A_ij = sum_c q_ic k_jc exp(G_ic - G_jc), j <= i
    o = (q exp(G)) S + A v
    S' = exp(G_C) S + (k exp(G_C - G))^T v
"""

import jax.numpy as jnp

from jaxseq_kernels import pallas_tpu_chunks as chunks

__all__ = ["fused"]


def chunk(S, q, k, v, g, *, documents, dot):
  """The rule, of one head."""
  g = jnp.maximum(g, chunks.LEAST)
  read = jnp.exp(chunks.since_start(g, dot)) * documents.read()
  write = jnp.exp(chunks.until_end(g, dot)) * documents.write()
  ((A,),) = chunks.scores([q], [k], g, dot)
  own = jnp.sum(q.astype(jnp.float32) * k, axis=1, keepdims=True)
  A = jnp.where(documents.mask(own=True), A + chunks.diagonal(own), 0.0)
  o = dot("nn", A, v) + dot("nn", q * read, S)
  keeps = jnp.exp(jnp.sum(g, axis=0, keepdims=True)) * documents.keeps()
  return o, chunks.column(keeps) * S + dot("tn", k * write, v)


def fused(q, k, v, log_decay, state, starts, valid, *, scale, interpret):
  """See `dispatch.fused`."""
  return chunks.fused(
    chunk,
    [q, k, v, log_decay],
    [],
    (state, starts, valid),
    scale=scale,
    interpret=interpret,
  )
