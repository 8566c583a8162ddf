"""The linear transformer that is not causal (Katharopoulos et al. 2020, eq. 5 and 6).

o_t = S^T phi(q_t) / z^T phi(q_t),   S = sum_j phi(k_j) v_j^T,   z = sum_j phi(k_j)

over all j of the document; arXiv:2006.16236. Packed documents are read from both ends,
from the left up to each token and from the right down to the one after it.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxseq import ops
from jaxseq.modules.linear.linear_transformer import LinearTransformer
from jaxseq.modules.mixer import Mixer

__all__ = ["BidirectionalLinearTransformer"]


class BidirectionalLinearTransformer(LinearTransformer):
  """Linear attention that sees the whole document."""

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    self.refuse_state(state)
    q, k, v = self._heads(ops.segments.clear_padding(x, segment_ids))
    q, k = self.feature_map(q, k)
    v = jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1)
    if segment_ids is None and self.implementation == "auto":
      sums = _of_the_row(q, k, v)
    else:
      ids = jnp.ones(x.shape[:2], jnp.int32) if segment_ids is None else segment_ids
      sums = _of_the_document(q, k, v, ids, self.implementation)
    sums = sums.astype(jnp.float32)
    o = sums[..., :-1] / jnp.maximum(sums[..., -1:], self.least_denominator)
    return self._output(o.astype(v.dtype), x, segment_ids), None

  initial_state = Mixer.initial_state


def _of_the_row(q, k, v):
  S = ops.product("bthk,bthv->bhkv", k, v, like=v)
  return ops.product("bthk,bhkv->bthv", q, S, like=v)


def _of_the_document(q, k, v, segment_ids, implementation):
  def run(q, k, v, ids):
    o, _ = ops.linear_attention(
      q, k, v, segment_ids=ids, scale=1.0, implementation=implementation
    )
    return o

  follows = segment_ids[:, :-1] == segment_ids[:, 1:]  # In the same document.
  follows = jnp.pad(follows, ((0, 0), (0, 1)))[..., None, None]
  after = lambda y: jnp.where(follows, jnp.roll(y, -1, axis=1), 0)
  flipped = [jnp.flip(y, axis=1) for y in (q, after(k), after(v), segment_ids)]
  return run(q, k, v, segment_ids) + jnp.flip(run(*flipped), axis=1)
