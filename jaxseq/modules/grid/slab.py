"""Simplified linear attention (SLAB, Guo et al. 2024, arXiv:2405.11582, sec. 3.3).

o_i = S^T relu(q_i) / z^T relu(q_i),   S = sum_j relu(k_j) v_j^T,   z = sum_j relu(k_j)
y_i = (o_i + conv(v)_i) W_o + b_o                                depthwise, 5 x 5

All heads share the weights of the convolution. On a grid, whose size is known, each
place has a learned vector that is added to its key, as in the authors' code. The
paper's norm is `layers.PRepBN`.
"""

import flax.linen as nn

from jaxseq import layers, ops
from jaxseq.modules.grid import heads
from jaxseq.modules.mixer import Mixer

__all__ = ["SLAB"]


class SLAB(Mixer):
  """Linear attention with ReLU features and a convolution of the values.

  Attributes:
    num_heads: Heads H.
    grid: Rows and columns of the image; None is a sequence, whose convolution has one
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
    q, k, v = (heads.project(self, x, self.features, name) for name in "qkv")
    types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    convolve = layers.DepthwiseConv(
      5, self.grid, use_bias=True, axes=None, name="conv", **types
    )
    local = convolve(heads.split(self, v), segment_ids)  # Checks the grid.
    if self.grid is not None:
      init = nn.with_logical_partitioning(nn.initializers.zeros, (None, "heads"))
      place = self.param("key_position", init, k.shape[1:], self.param_dtype)
      k += place.astype(k.dtype)
    q, k, v = (heads.split(self, y) for y in (nn.relu(q), nn.relu(k), v))
    o = ops.noncausal_linear_attention(
      q,
      k,
      v,
      segment_ids=segment_ids,
      scale=1.0,
      normalized=True,
      implementation=self.implementation,
    )
    return heads.merge(self, o + local, x, segment_ids), None
