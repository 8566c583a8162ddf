"""Attention by the correlation of spectra (ESSA, Zhang et al. 2023, arXiv:2307.14010).

p(x) = (x - mean(x))^2 / |x - mean(x)|^2          over the channels of a query or key
q' = p(q) / |p(q)|  over channels,   k' = p(k) / |p(k)|  over tokens, for each channel
o_i = v_i + sum_j q'_i^T k'_j v_j / sqrt(N),      y_i = o_i W_o + b_o

The square of the correlation of two spectra has these features (sec. 3.2). There is one
head, of all channels. Norms are those of the authors' code.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseq import ops
from jaxseq.modules.grid import heads
from jaxseq.modules.mixer import Mixer

__all__ = ["ESSA"]

EPSILON = 1e-7  # Added to the sum of squares of a spectrum.
TINY = 1e-20  # Added to the squares of norms, which are small where channels are many.


class ESSA(Mixer):
  """Linear attention whose features are squared deviations from the mean channel."""

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    self.refuse_state(state)
    x = ops.segments.clear_padding(x, segment_ids)
    q, k, v = (heads.project(self, x, self.features, name) for name in "qkv")
    q, k = _shares(q), _shares(k)
    q *= jax.lax.rsqrt(jnp.sum(q * q, axis=-1, keepdims=True) + TINY)
    k *= jax.lax.rsqrt(ops.documents.sums(k * k, segment_ids) + TINY)
    number = ops.documents.counts(x.shape[:2], segment_ids)
    o = ops.noncausal_linear_attention(
      (q * number[..., None] ** -0.5)[:, :, None],
      k[:, :, None],
      v[:, :, None],
      segment_ids=segment_ids,
      scale=1.0,
      implementation=self.implementation,
    )
    y = heads.project(self, v + o[:, :, 0], self.features, "out", ("heads", "embed"))
    return ops.segments.clear_padding(y.astype(x.dtype), segment_ids), None


def _shares(x):
  """Each channel's share of the variance of a spectrum, in float32."""
  x = x.astype(jnp.float32)
  squares = jnp.square(x - jnp.mean(x, axis=-1, keepdims=True))
  return squares / (jnp.sum(squares, axis=-1, keepdims=True) + EPSILON)
