"""Multi-head softmax attention (Vaswani et al. 2017, arXiv:1706.03762, sec. 3.2).

With key-value heads shared by groups of query heads (Ainslie et al. 2023,
arXiv:2305.13245) and rotary positions (Su et al. 2021, arXiv:2104.09864), without
biases, as in Llama (Touvron et al. 2023, arXiv:2302.13971).
"""

import flax.linen as nn

from jaxseq import layers, ops, positions
from jaxseq.modules.mixer import Mixer

__all__ = ["Attention", "SlidingWindowAttention"]


class Attention(Mixer):
  """Every token looks at all tokens before it.

  Attributes:
    num_heads: Query heads H.
    num_kv_heads: Key-value heads G, which divide H. H if None.
    head_dim: K and V of a head. D / H if None.
    rotary_theta: Base of the rotary wavelengths. None leaves positions out.
    max_length: Tokens of a document that the cache holds. A call may not have more, and
      outputs of decode steps past it are NaN.
  """

  num_heads: int = 4
  num_kv_heads: int | None = None
  head_dim: int | None = None
  rotary_theta: float | None = 10000.0
  max_length: int = 2048

  window = None  # Tokens seen; None is all.

  def __post_init__(self):
    super().__post_init__()
    name = type(self).__name__
    counts = ("num_heads", "num_kv_heads", "head_dim", "max_length", "window")
    for count in counts:
      size = getattr(self, count)
      if size is not None and size < 1:
        raise ValueError(f"{name} needs {count} >= 1; got {size}")
    if self.head_dim is None and self.features % self.num_heads:
      raise ValueError(
        f"{name} needs num_heads that divide features = {self.features}; "
        f"got {self.num_heads}"
      )
    if self.num_heads % (self.num_kv_heads or self.num_heads):
      raise ValueError(
        f"{name} needs num_kv_heads that divide num_heads = {self.num_heads}; "
        f"got {self.num_kv_heads}"
      )
    if self.rotary_theta is not None and self._head_dim % 2:
      raise ValueError(f"{name} needs an even head_dim to rotate; got {self._head_dim}")

  @property
  def _head_dim(self) -> int:
    return self.head_dim or self.features // self.num_heads

  @property
  def num_slots(self) -> int:
    """Tokens in the cache."""
    return self.window or self.max_length

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    B, T, _ = x.shape
    if self.window is None and T > self.max_length:
      raise ValueError(
        f"{type(self).__name__} needs max_length of at least the {T} tokens of a call; "
        f"got {self.max_length}"
      )
    x = ops.segments.clear_padding(x, segment_ids)
    num_kv_heads = self.num_kv_heads or self.num_heads

    def heads(name, count):
      y = layers.projection(
        count * self._head_dim,
        ("embed", "heads"),
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        name=name,
      )(x)
      return y.reshape(B, T, count, self._head_dim)

    q, k = heads("q", self.num_heads), heads("k", num_kv_heads)
    v = heads("v", num_kv_heads)
    cache = self.initial_state(B) if state is None else state
    if self.rotary_theta is not None:
      place = ops.segments.positions(segment_ids, cache.length, (B, T))
      q, k = (positions.rotary(y, place, theta=self.rotary_theta) for y in (q, k))
    o, after = ops.softmax_attention(
      q,
      k,
      v,
      window=self.window,
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    out = layers.projection(
      self.features,
      ("heads", "embed"),
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name="out",
    )
    if state is None:  # Dropped by the compiler where it is not used, as in training.
      after = ops.kv_cache.append(cache, k, v, segment_ids)
    return out(o.reshape(B, T, -1)).astype(x.dtype), after

  @nn.nowrap
  def initial_state(self, batch_size: int) -> ops.kv_cache.KVCache:
    heads = self.num_kv_heads or self.num_heads
    size = self._head_dim
    return ops.kv_cache.empty(batch_size, self.num_slots, heads, size, size, self.dtype)


class SlidingWindowAttention(Attention):
  """Every token looks at the last `window` tokens, itself included.

  The state is a ring buffer of that many keys and values (Mistral 7B, Jiang et al.
  2023, arXiv:2310.06825, sec. 2; the pattern: Longformer, Beltagy et al. 2020,
  arXiv:2004.05150).

  Attributes:
    window: Tokens seen.
  """

  window: int = 64
