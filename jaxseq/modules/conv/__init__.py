"""Convolutions over many tokens, with and without gates."""

from jaxseq.modules.conv import gated_attention
from jaxseq.modules.conv.extractors import HE, ME, SHE, WE
from jaxseq.modules.conv.gam import GAM
from jaxseq.modules.conv.hornet import CausalHorNet, widths
from jaxseq.modules.conv.hyena import CONV_SIZE, Hyena
from jaxseq.modules.conv.mega import BidirectionalMega, Mega
from jaxseq.modules.conv.tcnca import TCNCA
from jaxseq.modules.mixer import Entry, Paper

__all__ = [
  "HE",
  "ME",
  "SHE",
  "WE",
  "GAM",
  "BidirectionalMega",
  "CausalHorNet",
  "Hyena",
  "MIXERS",
  "Mega",
  "TCNCA",
]


MEGA = Paper("Mega: Moving Average Equipped Gated Attention", 2022, "2209.10655")


def _extractor(name, cls, op) -> Entry:
  return Entry(
    name=name,
    cls=cls,
    paper=Paper("Attention Is Not All You Need Anymore", 2023, "2308.07661"),
    op=op,
    state="window",
    state_size=lambda m: (m.context - 1) * m.features + 1,
    rows=("S261",),
  )


def _cache_size(m) -> int:
  return gated_attention.num_slots(m) * (m.key_size + gated_attention.value_size(m)) + 1


def _hyena_size(m: Hyena) -> int:
  window = (m.max_length - 1) * (m.order - 1)
  return (window + (CONV_SIZE - 1) * (m.order + 1)) * m.features


MIXERS = (
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
  Entry(
    name="causal_hornet",
    cls=CausalHorNet,
    paper=Paper(
      "HorNet: Efficient High-Order Spatial Interactions with Recursive Gated "
      "Convolutions",
      2022,
      "2207.14284",
    ),
    op="short_conv",
    state="window",
    state_size=lambda m: (m.kernel_size - 1) * sum(widths(m)),
    rows=("S437",),
  ),
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
    name="gam",
    cls=GAM,
    paper=Paper(
      "Gated Associative Memory: A Parallel O(N) Architecture for Efficient Sequence "
      "Modeling",
      2025,
      "2509.00605",
    ),
    op="short_conv",
    state="window",
    state_size=lambda m: (m.kernel_size - 1) * m.features,
    rows=("S276",),
  ),
  _extractor("she", SHE, "dense_conv"),
  _extractor("he", HE, "fft_conv"),
  _extractor("we", WE, "fft_conv"),
  _extractor("me", ME, "fft_conv"),
)
