"""Convolutions over many tokens, with and without gates."""

from jaxseq.modules.conv import gated_attention
from jaxseq.modules.conv.hyena import CONV_SIZE, Hyena
from jaxseq.modules.conv.mega import BidirectionalMega, Mega
from jaxseq.modules.conv.tcnca import TCNCA
from jaxseq.modules.mixer import Entry, Paper

__all__ = [
  "BidirectionalMega",
  "Hyena",
  "MIXERS",
  "Mega",
  "TCNCA",
]


def _hyena_size(m: Hyena) -> int:
  window = (m.max_length - 1) * (m.order - 1)
  return (window + (CONV_SIZE - 1) * (m.order + 1)) * m.features


MEGA = Paper("Mega: Moving Average Equipped Gated Attention", 2022, "2209.10655")


def _cache_size(m) -> int:
  return gated_attention.num_slots(m) * (m.key_size + gated_attention.value_size(m)) + 1


MIXERS = (
  Entry(
    name="hyena",
    cls=Hyena,
    paper=Paper(
      "Hyena Hierarchy: Towards Larger Convolutional Language Models",
      2023,
      "2302.10866",
    ),
    op="fft_conv",
    state="window",
    state_size=_hyena_size,
    rows=("S113",),
  ),
  Entry(
    name="mega",
    cls=Mega,
    paper=MEGA,
    op="diagonal_recurrence",
    state="growing",
    state_size=lambda m: m.features * m.ema_size + _cache_size(m),
    rows=("S222",),
  ),
  Entry(
    name="bidirectional_mega",
    cls=BidirectionalMega,
    paper=MEGA,
    op="diagonal_recurrence",
    state="none",
    state_size=lambda m: 0,
    causal=False,
    rows=("S222",),
  ),
  Entry(
    name="tcnca",
    cls=TCNCA,
    paper=Paper(
      "TCNCA: Temporal Convolution Network with Chunked Attention for Scalable "
      "Sequence Processing",
      2023,
      "2312.05605",
    ),
    op="short_conv",
    state="window",
    state_size=lambda m: sum(m.histories) * m.features + _cache_size(m),
    rows=("S052",),
  ),
)
