"""Rank-augmented linear attention (RALA, Fan et al. 2024, arXiv:2411.07635, sec. 3).

phi(x) = elu(x) + 1,   alpha = softmax_j(mean_i(phi(q_i))^T phi(k_j) / sqrt(K))
S = sum_j alpha_j R_j phi(k_j) v_j^T,   z = sum_j alpha_j phi(k_j)
o_i = S^T R_i phi(q_i) / (z^T phi(q_i) + 1e-6)
y_i = ((o_i + conv(v)_i) * (x_i W_g + b_g)) W_o + b_o          depthwise, 5 x 5

The weights alpha keep the rank of S up, the product with a linear map of x that of the
outputs. R turns by the place on the grid (rotary), rows in the first half of the
channels and columns in the second; the denominator sees no rotation. The authors' code
multiplies alpha by the number of tokens and divides S and z by it.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxseq import layers, ops, positions
from jaxseq.layers import feature_maps
from jaxseq.modules.grid import heads
from jaxseq.modules.mixer import Mixer

__all__ = ["RALA"]


class RALA(Mixer):
  """Linear attention over the image with weighted keys and gated outputs.

  Attributes:
    num_heads: Heads H.
    grid: Rows and columns of the image; None is a sequence, of one place and a
      convolution of one axis.
  """

  num_heads: int = 4
  grid: tuple[int, int] | None = None

  def __post_init__(self):
    super().__post_init__()
    heads.check_heads(self, 2 if self.grid is None else 4)

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    self.refuse_state(state)
    x = ops.segments.clear_padding(x, segment_ids)
    q, k, v, gate = (
      heads.project(self, x, self.features, name) for name in ("q", "k", "v", "gate")
    )
    types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    convolve = layers.DepthwiseConv(5, self.grid, use_bias=True, name="conv", **types)
    local = convolve(v, segment_ids)
    q, k, v = (heads.split(self, y) for y in (q, k, v))
    q, k = (feature_maps.elu_plus_one(y.astype(jnp.float32)) for y in (q, k))
    scores = jnp.sum(ops.documents.means(q, segment_ids) * k, axis=-1)
    alpha = ops.documents.softmax(scores * q.shape[-1] ** -0.5, segment_ids)
    k = alpha[..., None] * k
    z = ops.documents.sums(k, segment_ids)
    o = ops.noncausal_linear_attention(
      self._turn(q, segment_ids),
      self._turn(k, segment_ids),
      v,
      segment_ids=segment_ids,
      scale=1.0,
      implementation=self.implementation,
    )
    o = o / (jnp.sum(z * q, axis=-1, keepdims=True) + 1e-6)
    o = (o.reshape(x.shape) + local) * gate
    return heads.merge(self, o, x, segment_ids), None

  def _turn(self, y, segment_ids):
    """Rotates the channels of each axis by the place along it."""
    B, T, _, K = y.shape
    if self.grid is None:
      places = [ops.segments.positions(segment_ids, jnp.zeros(B, jnp.int32), (B, T))]
    else:
      places = [jnp.broadcast_to(p.ravel(), (B, T)) for p in jnp.indices(self.grid)]
    # Wavelengths from 2 pi to 2 pi 10^4 with both ends among them, as in their code.
    number = K // (2 * len(places))
    theta = 10000.0 ** (number / max(number - 1, 1))
    parts = zip(jnp.split(y, len(places), axis=-1), places)
    turned = [positions.rotary(part, place, theta=theta) for part, place in parts]
    return jnp.concatenate(turned, axis=-1)
