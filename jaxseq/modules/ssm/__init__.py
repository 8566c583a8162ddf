"""State-space models and gated diagonal recurrences: a vector state."""

from jaxseq.modules.mixer import Entry, Paper
from jaxseq.modules.ssm.rg_lru import CONV_SIZE, RGLRU
from jaxseq.modules.ssm.s5 import S5

__all__ = ["MIXERS", "RGLRU", "S5"]

MIXERS = (
  Entry(
    name="s5",
    cls=S5,
    paper=Paper(
      "Simplified State Space Layers for Sequence Modeling", 2022, "2208.04933"
    ),
    op="diagonal_recurrence",
    state="constant",
    state_size=lambda m: m.state_size // 2,
  ),
  Entry(
    name="rg_lru",
    cls=RGLRU,
    paper=Paper(
      "Griffin: Mixing Gated Linear Recurrences with Local Attention for Efficient "
      "Language Models",
      2024,
      "2402.19427",
    ),
    op="diagonal_recurrence",
    state="constant",
    state_size=lambda m: CONV_SIZE * m.num_channels + 1,
  ),
)
