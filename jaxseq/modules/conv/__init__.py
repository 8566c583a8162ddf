"""Convolutions over many tokens, with and without gates."""

from jaxseq.modules.conv import gated_attention
from jaxseq.modules.conv.extractors import HE, ME, SHE, WE
from jaxseq.modules.conv.fnet import FNet
from jaxseq.modules.conv.gam import GAM
from jaxseq.modules.conv.h3 import H3
from jaxseq.modules.conv.hornet import CausalHorNet, widths
from jaxseq.modules.conv.hyena import CONV_SIZE, Hyena
from jaxseq.modules.conv.laughing_hyena import LaughingHyena, LaughingMultiHyena
from jaxseq.modules.conv.mega import BidirectionalMega, Mega
from jaxseq.modules.conv.multi_hyena import MultiHyena
from jaxseq.modules.conv.sgconv import BidirectionalSGConv, SGConv
from jaxseq.modules.conv.tcnca import TCNCA
from jaxseq.modules.conv.tnn import TNN, BidirectionalTNN
from jaxseq.modules.mixer import Entry, Paper

__all__ = [
  "BidirectionalMega",
  "BidirectionalSGConv",
  "BidirectionalTNN",
  "CausalHorNet",
  "FNet",
  "GAM",
  "H3",
  "HE",
  "Hyena",
  "LaughingHyena",
  "LaughingMultiHyena",
  "ME",
  "MIXERS",
  "Mega",
  "MultiHyena",
  "SGConv",
  "SHE",
  "TCNCA",
  "TNN",
  "WE",
]


def _hyena_size(m: Hyena) -> int:
  window = (m.max_length - 1) * (m.order - 1)
  return (window + (CONV_SIZE - 1) * (m.order + 1)) * m.features


MEGA = Paper("Mega: Moving Average Equipped Gated Attention", 2022, "2209.10655")


def _cache_size(m) -> int:
  return gated_attention.num_slots(m) * (m.key_size + gated_attention.value_size(m)) + 1


def _multi_hyena_size(m: MultiHyena) -> int:
  return (2 * (m.max_length - 1) + 3 * (CONV_SIZE - 1)) * m.features


def _h3_size(m: H3) -> int:
  return (m.state_size - 1 + m.head_size * m.state_size // 2) * m.features


def _laughing_hyena_size(m: LaughingHyena) -> int:
  modes = m.num_modes * (m.order - 1)
  return (modes + (CONV_SIZE - 1) * (m.order + 1)) * m.features


def _laughing_multi_hyena_size(m: LaughingMultiHyena) -> int:
  return (m.num_modes * m.head_size + 3 * (CONV_SIZE - 1)) * m.features


LAUGHING_HYENA = Paper(
  "Laughing Hyena Distillery: Extracting Compact Recurrences From Convolutions",
  2023,
  "2310.18780",
)


SGCONV = Paper(
  "What Makes Convolutional Models Great on Long Sequence Modeling?",
  2022,
  "2210.09298",
)


TOEPLITZ = Paper("Toeplitz Neural Network for Sequence Modeling", 2023, "2305.04749")


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
  Entry(
    name="fnet",
    cls=FNet,
    paper=Paper("FNet: Mixing Tokens with Fourier Transforms", 2021, "2105.03824"),
    op="fourier",
    state="none",
    state_size=lambda m: 0,
    causal=False,
  ),
  Entry(
    name="multi_hyena",
    cls=MultiHyena,
    paper=LAUGHING_HYENA,
    op="gated_conv",
    state="window",
    state_size=_multi_hyena_size,
    rows=("S226",),
  ),
  Entry(
    name="laughing_hyena",
    cls=LaughingHyena,
    paper=LAUGHING_HYENA,
    op="modal_conv",
    state="constant",
    state_size=_laughing_hyena_size,
    rows=("S226",),
  ),
  Entry(
    name="laughing_multi_hyena",
    cls=LaughingMultiHyena,
    paper=LAUGHING_HYENA,
    op="modal_conv",
    state="constant",
    state_size=_laughing_multi_hyena_size,
    rows=("S226",),
  ),
  Entry(
    name="h3",
    cls=H3,
    paper=Paper(
      "Hungry Hungry Hippos: Towards Language Modeling with State Space Models",
      2022,
      "2212.14052",
    ),
    op="modal_conv",
    state="constant",
    state_size=_h3_size,
  ),
  Entry(
    name="sgconv",
    cls=SGConv,
    paper=SGCONV,
    op="fft_conv",
    state="window",
    state_size=lambda m: (m.max_length - 1) * m.features,
  ),
  Entry(
    name="bidirectional_sgconv",
    cls=BidirectionalSGConv,
    paper=SGCONV,
    op="two_sided_conv",
    state="none",
    state_size=lambda m: 0,
    causal=False,
  ),
  Entry(
    name="tnn",
    cls=TNN,
    paper=TOEPLITZ,
    op="fft_conv",
    state="window",
    state_size=lambda m: (m.max_length - 1) * m.width,
  ),
  Entry(
    name="bidirectional_tnn",
    cls=BidirectionalTNN,
    paper=TOEPLITZ,
    op="two_sided_conv",
    state="none",
    state_size=lambda m: 0,
    causal=False,
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
