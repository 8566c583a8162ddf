"""Mixers of tokens that stand on a grid: images and volumes."""

from jaxseq.modules.grid.conv_s5 import ConvS5
from jaxseq.modules.grid.cross_scan_mamba import CrossScanMamba
from jaxseq.modules.grid.essa import ESSA
from jaxseq.modules.grid.hornet import HorNet
from jaxseq.modules.grid.inline import InLine
from jaxseq.modules.grid.mamba_mixer import MambaMixer, SelectiveChannelMixer
from jaxseq.modules.grid.mamba_nd import MambaND
from jaxseq.modules.grid.plstm import CONV_SIZE as PLSTM_CONV_SIZE
from jaxseq.modules.grid.plstm import PLSTM, PLSTM2D, PLSTM2DDiffusive
from jaxseq.modules.grid.rala import RALA
from jaxseq.modules.grid.scatterformer import ScatterFormer
from jaxseq.modules.grid.slab import SLAB
from jaxseq.modules.grid.vig import ViG
from jaxseq.modules.grid.vir import ViR
from jaxseq.modules.mixer import Entry, Paper

__all__ = [
  "ConvS5",
  "CrossScanMamba",
  "ESSA",
  "HorNet",
  "InLine",
  "MIXERS",
  "MambaMixer",
  "MambaND",
  "PLSTM",
  "PLSTM2D",
  "PLSTM2DDiffusive",
  "RALA",
  "SLAB",
  "ScatterFormer",
  "SelectiveChannelMixer",
  "ViG",
  "ViR",
]


def _both_ways(name, cls, paper, op, row, packing=True) -> Entry:
  """Of a mixer that sees the whole document."""
  return Entry(
    name=name,
    cls=cls,
    paper=paper,
    op=op,
    state="none",
    state_size=lambda m: 0,
    causal=False,
    packing=packing,
    rows=(row,),
  )


def _plstm_size(m: PLSTM) -> int:
  memory = m.features**2 // m.num_heads
  return memory + (PLSTM_CONV_SIZE + 1) * m.features + m.num_heads


PLSTM_PAPER = Paper(
  "pLSTM: parallelizable Linear Source Transition Mark networks", 2025, "2506.11997"
)


MAMBA_MIXER = Paper(
  "MambaMixer: Efficient Selective State Space Models with Dual Token and Channel "
  "Selection",
  2024,
  "2403.19888",
)


MIXERS: tuple[Entry, ...] = (
  Entry(
    name="vir",
    cls=ViR,
    paper=Paper("ViR: Vision Retention Networks", 2023, "2310.19731"),
    op="scalar_decay",
    state="constant",
    state_size=lambda m: m.features**2 // m.num_heads,
    rows=("S016",),
  ),
  _both_ways(
    "vig",
    ViG,
    Paper(
      "ViG: Linear-complexity Visual Sequence Learning with Gated Linear Attention",
      2024,
      "2405.18425",
    ),
    "bidirectional",
    "S365",
  ),
  _both_ways(
    "rala",
    RALA,
    Paper("Breaking the Low-Rank Dilemma of Linear Attention", 2024, "2411.07635"),
    "noncausal_linear_attention",
    "S327",
  ),
  _both_ways(
    "slab",
    SLAB,
    Paper(
      "SLAB: Efficient Transformers with Simplified Linear Attention and Progressive "
      "Re-parameterized Batch Normalization",
      2024,
      "2405.11582",
    ),
    "noncausal_linear_attention",
    "S341",
  ),
  _both_ways(
    "inline",
    InLine,
    Paper(
      "Bridging the Divide: Reconsidering Softmax and Linear Attention",
      2024,
      "2412.06590",
    ),
    "noncausal_linear_attention",
    "S350",
  ),
  _both_ways(
    "scatterformer",
    ScatterFormer,
    Paper(
      "ScatterFormer: Efficient Voxel Transformer with Scattered Linear Attention",
      2024,
      "2401.00912",
    ),
    "noncausal_linear_attention",
    "S342",
  ),
  _both_ways(
    "essa",
    ESSA,
    Paper(
      "ESSAformer: Efficient Transformer for Hyperspectral Image Super-resolution",
      2023,
      "2307.14010",
    ),
    "noncausal_linear_attention",
    "S371",
  ),
  Entry(
    name="plstm",
    cls=PLSTM,
    paper=PLSTM_PAPER,
    op="signed_scalar_decay",
    state="constant",
    state_size=_plstm_size,
    rows=("S010",),
  ),
  _both_ways("plstm_2d", PLSTM2D, PLSTM_PAPER, "plstm_2d", "S010"),
  _both_ways("plstm_2d_diffusive", PLSTM2DDiffusive, PLSTM_PAPER, "plstm_2d", "S010"),
  _both_ways(
    "mamba_nd",
    MambaND,
    Paper(
      "Mamba-ND: Selective State Space Modeling for Multi-Dimensional Data",
      2024,
      "2402.05892",
    ),
    "selective_scan",
    "S207",
  ),
  _both_ways("cross_scan_mamba", CrossScanMamba, MAMBA_MIXER, "selective_scan", "S087"),
  _both_ways(
    "selective_channel_mixer",
    SelectiveChannelMixer,
    MAMBA_MIXER,
    "selective_scan",
    "S087",
    packing=False,
  ),
  _both_ways(
    "mamba_mixer", MambaMixer, MAMBA_MIXER, "selective_scan", "S087", packing=False
  ),
)


MIXERS: tuple[Entry, ...] = (
  Entry(
    name="vir",
    cls=ViR,
    paper=Paper("ViR: Vision Retention Networks", 2023, "2310.19731"),
    op="scalar_decay",
    state="constant",
    state_size=lambda m: m.features**2 // m.num_heads,
    rows=("S016",),
  ),
  _both_ways(
    "vig",
    ViG,
    Paper(
      "ViG: Linear-complexity Visual Sequence Learning with Gated Linear Attention",
      2024,
      "2405.18425",
    ),
    "bidirectional",
    "S365",
  ),
  _both_ways(
    "rala",
    RALA,
    Paper("Breaking the Low-Rank Dilemma of Linear Attention", 2024, "2411.07635"),
    "noncausal_linear_attention",
    "S327",
  ),
  _both_ways(
    "slab",
    SLAB,
    Paper(
      "SLAB: Efficient Transformers with Simplified Linear Attention and Progressive "
      "Re-parameterized Batch Normalization",
      2024,
      "2405.11582",
    ),
    "noncausal_linear_attention",
    "S341",
  ),
  _both_ways(
    "inline",
    InLine,
    Paper(
      "Bridging the Divide: Reconsidering Softmax and Linear Attention",
      2024,
      "2412.06590",
    ),
    "noncausal_linear_attention",
    "S350",
  ),
  _both_ways(
    "scatterformer",
    ScatterFormer,
    Paper(
      "ScatterFormer: Efficient Voxel Transformer with Scattered Linear Attention",
      2024,
      "2401.00912",
    ),
    "noncausal_linear_attention",
    "S342",
  ),
  _both_ways(
    "essa",
    ESSA,
    Paper(
      "ESSAformer: Efficient Transformer for Hyperspectral Image Super-resolution",
      2023,
      "2307.14010",
    ),
    "noncausal_linear_attention",
    "S371",
  ),
  Entry(
    name="plstm",
    cls=PLSTM,
    paper=PLSTM_PAPER,
    op="signed_scalar_decay",
    state="constant",
    state_size=_plstm_size,
    rows=("S010",),
  ),
  _both_ways("plstm_2d", PLSTM2D, PLSTM_PAPER, "plstm_2d", "S010"),
  _both_ways("plstm_2d_diffusive", PLSTM2DDiffusive, PLSTM_PAPER, "plstm_2d", "S010"),
  _both_ways(
    "hornet",
    HorNet,
    Paper(
      "HorNet: Efficient High-Order Spatial Interactions with Recursive Gated "
      "Convolutions",
      2022,
      "2207.14284",
    ),
    "depthwise_conv",
    "S437",
  ),
)


MIXERS: tuple[Entry, ...] = (
  Entry(
    name="vir",
    cls=ViR,
    paper=Paper("ViR: Vision Retention Networks", 2023, "2310.19731"),
    op="scalar_decay",
    state="constant",
    state_size=lambda m: m.features**2 // m.num_heads,
    rows=("S016",),
  ),
  _both_ways(
    "vig",
    ViG,
    Paper(
      "ViG: Linear-complexity Visual Sequence Learning with Gated Linear Attention",
      2024,
      "2405.18425",
    ),
    "bidirectional",
    "S365",
  ),
  _both_ways(
    "rala",
    RALA,
    Paper("Breaking the Low-Rank Dilemma of Linear Attention", 2024, "2411.07635"),
    "noncausal_linear_attention",
    "S327",
  ),
  _both_ways(
    "slab",
    SLAB,
    Paper(
      "SLAB: Efficient Transformers with Simplified Linear Attention and Progressive "
      "Re-parameterized Batch Normalization",
      2024,
      "2405.11582",
    ),
    "noncausal_linear_attention",
    "S341",
  ),
  _both_ways(
    "inline",
    InLine,
    Paper(
      "Bridging the Divide: Reconsidering Softmax and Linear Attention",
      2024,
      "2412.06590",
    ),
    "noncausal_linear_attention",
    "S350",
  ),
  _both_ways(
    "scatterformer",
    ScatterFormer,
    Paper(
      "ScatterFormer: Efficient Voxel Transformer with Scattered Linear Attention",
      2024,
      "2401.00912",
    ),
    "noncausal_linear_attention",
    "S342",
  ),
  _both_ways(
    "essa",
    ESSA,
    Paper(
      "ESSAformer: Efficient Transformer for Hyperspectral Image Super-resolution",
      2023,
      "2307.14010",
    ),
    "noncausal_linear_attention",
    "S371",
  ),
  Entry(
    name="plstm",
    cls=PLSTM,
    paper=PLSTM_PAPER,
    op="signed_scalar_decay",
    state="constant",
    state_size=_plstm_size,
    rows=("S010",),
  ),
  _both_ways("plstm_2d", PLSTM2D, PLSTM_PAPER, "plstm_2d", "S010"),
  _both_ways("plstm_2d_diffusive", PLSTM2DDiffusive, PLSTM_PAPER, "plstm_2d", "S010"),
  Entry(
    name="conv_s5",
    cls=ConvS5,
    paper=Paper(
      "Convolutional State Space Models for Long-Range Spatiotemporal Modeling",
      2023,
      "2310.19694",
    ),
    op="diagonal_recurrence",
    state="constant",
    state_size=lambda m: m.features // m.channels * m.state_size // 2,
    rows=("S034",),
  ),
)
