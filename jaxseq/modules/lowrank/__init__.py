"""Attention matrices of low rank, by features, hashes and flows."""

from jaxseq.modules.lowrank.ecoformer import EcoFormer
from jaxseq.modules.lowrank.fastformer import CausalFastformer, Fastformer
from jaxseq.modules.lowrank.flow_attention import (
  BidirectionalFlowAttention,
  FlowAttention,
)
from jaxseq.modules.lowrank.nprf import NPRF
from jaxseq.modules.lowrank.ponet import PoNet
from jaxseq.modules.mixer import Entry, Paper

__all__ = [
  "MIXERS",
  "NPRF",
  "BidirectionalFlowAttention",
  "CausalFastformer",
  "EcoFormer",
  "Fastformer",
  "FlowAttention",
  "PoNet",
]


def _flow_size(m: FlowAttention) -> int:
  return m.features * (m.head_size + 4) + m.num_heads + 1


MIXERS = (
  Entry(
    name="fastformer",
    cls=Fastformer,
    paper=Paper(
      "Fastformer: Additive Attention Can Be All You Need", 2021, "2108.09084"
    ),
    op="diagonal_recurrence",
    state="none",
    state_size=lambda m: 0,
    causal=False,
    rows=("S275",),
  ),
  Entry(
    name="fastformer_causal",
    cls=CausalFastformer,
    paper=Paper(
      "Fastformer: Additive Attention Can Be All You Need", 2021, "2108.09084"
    ),
    op="diagonal_recurrence",
    state="constant",
    state_size=lambda m: 2 * (m.features + m.num_heads),
  ),
  Entry(
    name="flow_attention",
    cls=FlowAttention,
    paper=Paper(
      "Flowformer: Linearizing Transformers with Conservation Flows",
      2022,
      "2202.06258",
    ),
    op="linear_attention",
    state="constant",
    state_size=_flow_size,
    rows=("S358",),
  ),
  Entry(
    name="flow_attention_bidirectional",
    cls=BidirectionalFlowAttention,
    paper=Paper(
      "Flowformer: Linearizing Transformers with Conservation Flows",
      2022,
      "2202.06258",
    ),
    op="noncausal_linear_attention",
    state="none",
    state_size=lambda m: 0,
    causal=False,
    rows=("S358",),
  ),
  Entry(
    name="nprf",
    cls=NPRF,
    paper=Paper(
      "Stable, Fast and Accurate: Kernelized Attention with Relative Positional "
      "Encoding",
      2021,
      "2106.12566",
    ),
    op="toeplitz_attention",
    state="growing",
    state_size=lambda m: (
      m.max_length * m.num_heads * (m.num_features + m.value_size) + 1
    ),
    rows=("S331",),
  ),
  Entry(
    name="ecoformer",
    cls=EcoFormer,
    paper=Paper(
      "EcoFormer: Energy-Saving Attention with Linear Complexity", 2022, "2209.09004"
    ),
    op="normalized_linear_attention",
    state="constant",
    state_size=lambda m: m.num_heads * m.num_features * (m.value_size + 1),
    rows=("S346",),
  ),
  Entry(
    name="ponet",
    cls=PoNet,
    paper=Paper(
      "PoNet: Pooling Network for Efficient Token Mixing in Long Sequences",
      2021,
      "2110.02442",
    ),
    op="piecewise_max",
    state="none",
    state_size=lambda m: 0,
    causal=False,
    rows=("S060",),
  ),
)
