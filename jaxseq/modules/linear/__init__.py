"""Linear attention: a matrix state that adds up key-value products."""

from jaxseq.modules.linear.gla import GatedLinearAttention
from jaxseq.modules.linear.retention import Retention
from jaxseq.modules.mixer import Entry, Paper

__all__ = ["MIXERS", "GatedLinearAttention", "Retention"]

MIXERS = (
  Entry(
    name="gla",
    cls=GatedLinearAttention,
    paper=Paper(
      "Gated Linear Attention Transformers with Hardware-Efficient Training",
      2023,
      "2312.06635",
    ),
    op="diagonal_decay",
    state="constant",
    state_size=lambda m: m.num_heads * m.key_size * m.value_size,
    rows=("S032",),
  ),
  Entry(
    name="retnet",
    cls=Retention,
    paper=Paper(
      "Retentive Network: A Successor to Transformer for Large Language Models",
      2023,
      "2307.08621",
    ),
    op="scalar_decay",
    state="constant",
    state_size=lambda m: m.num_heads * m.expand_v * m.key_size**2 + 1,
    rows=("S299",),
  ),
)
