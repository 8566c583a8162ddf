"""DiagAttention of TransNormer (Qin et al. 2022, arXiv:2210.10340, sec. 4.2).

    o_t = sum_s p_ts v_s,    p_ts = softmax_s(q_t . k_s / sqrt(K))

over the tokens s <= t of the same block of W tokens: softmax attention in blocks that
do not overlap, counted from the beginning of each document. So blocks are documents of
their own to `ops.softmax_attention`. This is the paper's causal model; it gives no
positions to the tokens of a block.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer

__all__ = ["DiagAttention"]


class DiagAttention(Mixer):
  """Attention within blocks. The state is the tokens of the block that is open.

  Attributes:
    num_heads: Heads H.
    window: Tokens W of a block.
  """

  num_heads: int = 4
  window: int = 64

  def __post_init__(self):
    super().__post_init__()
    if self.features % self.num_heads or self.window < 1:
      raise ValueError(
        f"DiagAttention needs num_heads that divide features = {self.features} and "
        f"window >= 1; got {self.num_heads} and {self.window}"
      )

  @property
  def head_size(self) -> int:
    return self.features // self.num_heads

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    B, T, D = x.shape
    x = ops.segments.clear_padding(x, segment_ids)

    def project(x, name, axes=("embed", "heads")):
      types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
      return layers.projection(D, axes, name=name, **types)(x)

    q, k, v = (project(x, n).reshape(B, T, self.num_heads, -1) for n in "qkv")
    cache = self.initial_state(B) if state is None else state
    block_ids = self._blocks(segment_ids, cache.length, (B, T))
    o, _ = ops.softmax_attention(
      q,
      k,
      v,
      window=self.window,
      initial_state=state,
      segment_ids=block_ids,
      implementation=self.implementation,
    )
    after = self._close(ops.kv_cache.append(cache, k, v, block_ids))
    y = project(o.reshape(B, T, D), "out", ("heads", "embed")).astype(x.dtype)
    return ops.segments.clear_padding(y, segment_ids), after

  def _blocks(self, segment_ids, length, shape):
    """Ids 1, 2, ... of the blocks of each row, 0 at padding."""
    place = ops.segments.positions(segment_ids, length, shape)
    starts = place % self.window == 0
    if segment_ids is None:
      return 1 + jnp.cumsum(starts, axis=1, dtype=jnp.int32)
    valid, documents, _ = ops.segments.parse(segment_ids)
    starts = (starts | documents) & valid
    return jnp.where(valid, 1 + jnp.cumsum(starts, axis=1, dtype=jnp.int32), 0)

  def _close(self, cache):
    """Empties the cache where the block is full, so that the next begins with none."""
    full = cache.length == self.window
    clear = lambda a: jnp.where(full.reshape(-1, *[1] * (a.ndim - 1)), 0, a)
    return jax.tree.map(clear, cache)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> ops.kv_cache.KVCache:
    H, size = self.num_heads, self.head_size
    return ops.kv_cache.empty(batch_size, self.window, H, size, size, self.dtype)
