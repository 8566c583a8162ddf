"""Attention over the tokens themselves."""

from jaxseq.modules.mixer import Entry, Paper
from jaxseq.modules.softmax.attention import Attention, SlidingWindowAttention

__all__ = ["MIXERS", "Attention", "SlidingWindowAttention"]


def _cache_size(m: Attention) -> int:
  head_dim = m.head_dim or m.features // m.num_heads
  return 2 * m.num_slots * (m.num_kv_heads or m.num_heads) * head_dim + 1


MIXERS = (
  Entry(
    name="attention",
    cls=Attention,
    paper=Paper("Attention Is All You Need", 2017, "1706.03762"),
    op="softmax_attention",
    state="growing",
    state_size=_cache_size,
  ),
  Entry(
    name="sliding_window_attention",
    cls=SlidingWindowAttention,
    paper=Paper("Longformer: The Long-Document Transformer", 2020, "2004.05150"),
    op="softmax_attention",
    state="window",
    state_size=_cache_size,
  ),
)
