"""Injective linear attention (InLine, Han et al. 2024, arXiv:2412.06590, eq. 5 and 6).

weights_ij = (s q_i^T k_j + 1 - s q_i^T mean(k)) / N,      s = 1 / sqrt(K)
o_i = sum_j weights_ij v_j + sum_w r_w v_{i+w}             w over 3 x 3 neighbours
r = gelu(mean(x) W_1 + b_1) W_2 + b_2                      for each channel of each head

The weights of a query add up to one by a subtraction, not by a division, so different
queries have different weights. What is subtracted is the mean key:

sum_j weights_ij v_j = mean(v) + s q_i^T sum_j (k_j - mean(k)) v_j^T / N
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxseq import layers, ops
from jaxseq.modules.grid import heads
from jaxseq.modules.mixer import Mixer

__all__ = ["InLine"]

TAPS = 3  # Of the neighbourhood, along each axis.


class InLine(Mixer):
  """Linear attention whose weights add up to one, and a convolution by the mean input.

  Attributes:
    num_heads: Heads H.
    grid: Rows and columns of the image; None is a sequence, whose neighbourhood has one
      axis.
  """

  num_heads: int = 4
  grid: tuple[int, int] | None = None

  def __post_init__(self):
    super().__post_init__()
    heads.check_heads(self)

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    self.refuse_state(state)
    x = ops.segments.clear_padding(x, segment_ids)

    def project(name, **options):
      return heads.split(self, heads.project(self, x, self.features, name, **options))

    q, v = project("q"), project("v")
    k = project("k", use_bias=False)  # A bias would cancel: only k - mean(k) is used.
    number = ops.documents.counts(x.shape[:2], segment_ids)[..., None, None]
    k = (k - ops.documents.means(k, segment_ids)) / number
    o = ops.noncausal_linear_attention(
      q, k, v, segment_ids=segment_ids, implementation=self.implementation
    )
    local = layers.depthwise_conv(
      v, self._neighbourhood(x, segment_ids), grid=self.grid, segment_ids=segment_ids
    )
    o = o + ops.documents.means(v, segment_ids) + local
    return heads.merge(self, o, x, segment_ids), None

  def _neighbourhood(self, x, segment_ids):
    """Weights r [3, (3,) B, T or 1, H, V] from the document's mean input."""
    taps = (TAPS,) * (1 if self.grid is None else 2)
    V = self.features // self.num_heads
    mean = ops.documents.means(x, segment_ids).astype(self.dtype)
    hidden = nn.gelu(
      self._map_heads(heads.split(self, mean), V, "neighbours_up"), approximate=False
    )
    r = self._map_heads(hidden, V * TAPS ** len(taps), "neighbours_down")
    r = r.reshape(*r.shape[:3], V, *taps)
    return jnp.moveaxis(r, range(4, r.ndim), range(len(taps)))

  def _map_heads(self, x, width, name):
    """A linear map of each head by itself, [B, T, H, V] -> [B, T, H, width]."""
    shape = (self.num_heads, x.shape[-1], width)
    init = nn.initializers.lecun_normal(batch_axis=(0,))
    init = nn.with_logical_partitioning(init, ("heads", None, None))
    W = self.param(f"{name}_kernel", init, shape, self.param_dtype)
    zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("heads", None))
    b = self.param(f"{name}_bias", zeros, (shape[0], width), self.param_dtype)
    y = jnp.einsum("bthv,hvw->bthw", x, W.astype(self.dtype))
    return y + b.astype(self.dtype)
