"""Scattered linear attention (ScatterFormer, He et al. 2024, arXiv:2401.00912).

o_i = S^T relu(q_i) / z^T relu(q_i),   S = sum_j relu(k_j) v_j^T,   z = sum_j relu(k_j)

over the tokens j of the window of i; y_i = o_i W_o + b_o. Windows may have any numbers
of tokens. Voxels, sorted by window, are given as packed documents, each a window. The
paper's exchange between windows is in its token-wise half, not here.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxseq import ops
from jaxseq.modules.grid import heads
from jaxseq.modules.mixer import Mixer

__all__ = ["ScatterFormer"]


class ScatterFormer(Mixer):
  """Linear attention with ReLU features within windows.

  Attributes:
    num_heads: Heads H.
    grid: Rows and columns of the tokens; None is a sequence, whose windows have one
      axis.
    window_size: Tokens along each side of a window. None is a window for each document.
  """

  num_heads: int = 4
  grid: tuple[int, int] | None = None
  window_size: int | None = 12

  def __post_init__(self):
    super().__post_init__()
    heads.check_heads(self)

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    self.refuse_state(state)
    x = ops.segments.clear_padding(x, segment_ids)
    q, k, v = (
      heads.split(self, heads.project(self, x, self.features, name, use_bias=False))
      for name in "qkv"
    )
    order, ids = self._windows(x.shape[:2], segment_ids)
    o = ops.noncausal_linear_attention(
      nn.relu(q)[:, order],
      nn.relu(k)[:, order],
      v[:, order],
      segment_ids=ids,
      scale=1.0,
      normalized=True,
      implementation=self.implementation,
    )
    return heads.merge(self, o[:, np.argsort(order)], x, segment_ids), None

  def _windows(self, shape, segment_ids):
    """An order of the tokens in which windows are stretches, and their ids in it."""
    B, T = shape
    if self.window_size is None:
      return np.arange(T), segment_ids
    if self.grid is None:
      place = ops.segments.positions(segment_ids, jnp.zeros(B, jnp.int32), shape)
      order, window = np.arange(T), place // self.window_size
    else:
      order, window = self._squares(T)
    if segment_ids is None:
      return order, jnp.broadcast_to(window[..., order] + 1, shape)
    valid, _, index = ops.segments.parse(segment_ids)
    ids = jnp.where(valid, window * (T + 1) + index + 1, 0)
    return order, ids[:, order]

  def _squares(self, T):
    """The order of the tokens by window, and the window of each token [1, T]."""
    height, width = self.grid
    if height * width != T:
      raise ValueError(
        f"a grid of {height} x {width} needs T = {height * width}; got {T}"
      )
    row, column = np.indices(self.grid).reshape(2, T) // self.window_size
    window = row * width + column
    return np.argsort(window, kind="stable"), window[None]
