"""Linear attention: a matrix state that adds up key-value products."""

from jaxseq.modules.linear.abc import ABC
from jaxseq.modules.linear.based import Based
from jaxseq.modules.linear.bidirectional_lightnet import BidirectionalLightNet
from jaxseq.modules.linear.bidirectional_linear_transformer import (
  BidirectionalLinearTransformer,
)
from jaxseq.modules.linear.cosformer import CosFormer
from jaxseq.modules.linear.diag_attention import DiagAttention
from jaxseq.modules.linear.gla import GatedLinearAttention
from jaxseq.modules.linear.gsa import GatedSlotAttention
from jaxseq.modules.linear.hedgehog import Hedgehog
from jaxseq.modules.linear.hgrn2 import HGRN2
from jaxseq.modules.linear.jrt_rnn import JRTRNN
from jaxseq.modules.linear.lightnet import LightNet
from jaxseq.modules.linear.lightning_attention import LightningAttention
from jaxseq.modules.linear.linear_transformer import LinearTransformer
from jaxseq.modules.linear.log_linear_mamba2 import LogLinearMamba2
from jaxseq.modules.linear.mlstm import CONV_SIZE as MLSTM_CONV_SIZE
from jaxseq.modules.linear.mlstm import MLSTM
from jaxseq.modules.linear.mom import CONV_SIZE as MOM_CONV_SIZE
from jaxseq.modules.linear.mom import MixtureOfMemories
from jaxseq.modules.linear.performer import Performer
from jaxseq.modules.linear.pop_retention import POPRetention
from jaxseq.modules.linear.rebased import ReBased
from jaxseq.modules.linear.retention import Retention
from jaxseq.modules.linear.rfa import (
  RandomFeatureAttention,
  SententialRandomFeatureAttention,
)
from jaxseq.modules.linear.rodimus import CONV_SIZE as RODIMUS_CONV_SIZE
from jaxseq.modules.linear.rodimus import Rodimus
from jaxseq.modules.linear.rwkv6 import RWKV6
from jaxseq.modules.linear.sse import SparseStateExpansion
from jaxseq.modules.linear.synaptic_resonance import SynapticResonance
from jaxseq.modules.linear.transnormer import TransNormer
from jaxseq.modules.linear.xlstm_7b import XLSTM7B
from jaxseq.modules.mixer import Entry, Paper
from jaxseq.modules.ssm.mamba2 import CONV_SIZE as MAMBA2_CONV_SIZE

__all__ = [
  "ABC",
  "HGRN2",
  "JRTRNN",
  "POPRetention",
  "MIXERS",
  "MLSTM",
  "RWKV6",
  "XLSTM7B",
  "Based",
  "BidirectionalLightNet",
  "BidirectionalLinearTransformer",
  "CosFormer",
  "DiagAttention",
  "GatedLinearAttention",
  "GatedSlotAttention",
  "Hedgehog",
  "LightNet",
  "LightningAttention",
  "LinearTransformer",
  "LogLinearMamba2",
  "MixtureOfMemories",
  "Performer",
  "RandomFeatureAttention",
  "ReBased",
  "Retention",
  "Rodimus",
  "SententialRandomFeatureAttention",
  "SparseStateExpansion",
  "SynapticResonance",
  "TransNormer",
]


def _linear_transformer_size(m: LinearTransformer) -> int:
  return m.num_heads * m.num_features * (m.value_size + 1)


def _log_linear_mamba2_size(m: LogLinearMamba2) -> int:
  inputs = m.width + 2 * m.num_groups * m.state_size
  buckets = (m.num_levels - 1) * m.width * m.state_size
  return buckets + 1 + (MAMBA2_CONV_SIZE - 1) * inputs


def _mom_size(m: MixtureOfMemories) -> int:
  inputs = (MOM_CONV_SIZE - 1) * (2 * m.key_size + m.value_size)
  return (m.num_memories + 1) * m.num_heads * (m.key_size * m.value_size + inputs)


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
  Entry(
    name="hgrn2",
    cls=HGRN2,
    paper=Paper("HGRN2: Gated Linear RNNs with State Expansion", 2024, "2404.07904"),
    op="diagonal_decay",
    state="constant",
    state_size=lambda m: m.num_heads * m.head_size**2,
  ),
  Entry(
    name="rwkv6",
    cls=RWKV6,
    paper=Paper(
      "Eagle and Finch: RWKV with Matrix-Valued States and Dynamic Recurrence",
      2024,
      "2404.05892",
    ),
    op="time_mix",
    state="constant",
    state_size=lambda m: m.num_heads * m.head_size**2 + m.features,
  ),
  Entry(
    name="abc",
    cls=ABC,
    paper=Paper("ABC: Attention with Bounded-memory Control", 2021, "2110.02488"),
    op="slot_attention",
    state="constant",
    state_size=lambda m: m.num_heads * m.num_slots * (2 * m.head_size + 1),
  ),
  Entry(
    name="gsa",
    cls=GatedSlotAttention,
    paper=Paper(
      "Gated Slot Attention for Efficient Linear-Time Sequence Modeling",
      2024,
      "2409.07146",
    ),
    op="slot_attention",
    state="constant",
    state_size=lambda m: m.num_heads * m.num_slots * 2 * m.head_size,
  ),
  Entry(
    name="mlstm",
    cls=MLSTM,
    paper=Paper("xLSTM: Extended Long Short-Term Memory", 2024, "2405.04517"),
    op="mlstm",
    state="constant",
    state_size=lambda m: (
      m.num_heads * (m.head_size**2 + m.head_size + 1)
      + (MLSTM_CONV_SIZE - 1) * m.inner_features
    ),
  ),
  Entry(
    name="xlstm_7b",
    cls=XLSTM7B,
    paper=Paper(
      "xLSTM 7B: A Recurrent LLM for Fast and Efficient Inference", 2025, "2503.13427"
    ),
    op="mlstm",
    state="constant",
    state_size=lambda m: m.num_heads * (m.key_size * (m.value_size + 1) + 1),
    rows=("S339",),
  ),
  Entry(
    name="log_linear_mamba2",
    cls=LogLinearMamba2,
    paper=Paper("Log-Linear Attention", 2025, "2506.04761"),
    op="log_linear",
    state="constant",
    state_size=_log_linear_mamba2_size,
    rows=("S301",),
  ),
  Entry(
    name="linear_transformer",
    cls=LinearTransformer,
    paper=Paper(
      "Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention",
      2020,
      "2006.16236",
    ),
    op="normalized_linear_attention",
    state="constant",
    state_size=_linear_transformer_size,
  ),
  Entry(
    name="bidirectional_linear_transformer",
    cls=BidirectionalLinearTransformer,
    paper=Paper(
      "Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention",
      2020,
      "2006.16236",
    ),
    op="linear_attention",
    state="none",
    state_size=lambda m: 0,
    causal=False,
  ),
  Entry(
    name="performer",
    cls=Performer,
    paper=Paper("Rethinking Attention with Performers", 2020, "2009.14794"),
    op="normalized_linear_attention",
    state="constant",
    state_size=_linear_transformer_size,
  ),
  Entry(
    name="rfa",
    cls=RandomFeatureAttention,
    paper=Paper("Random Feature Attention", 2021, "2103.02143"),
    op="normalized_linear_attention",
    state="constant",
    state_size=_linear_transformer_size,
  ),
  Entry(
    name="rfa_sentential",
    cls=SententialRandomFeatureAttention,
    paper=Paper(
      "Modeling Context With Linear Attention for Scalable Document-Level Translation",
      2022,
      "2210.08431",
    ),
    op="normalized_linear_attention",
    state="constant",
    state_size=_linear_transformer_size,
    rows=("S166",),
  ),
  Entry(
    name="cosformer",
    cls=CosFormer,
    paper=Paper("cosFormer: Rethinking Softmax in Attention", 2022, "2202.08791"),
    op="normalized_linear_attention",
    state="constant",
    state_size=lambda m: _linear_transformer_size(m) + 1,
  ),
  Entry(
    name="hedgehog",
    cls=Hedgehog,
    paper=Paper(
      "The Hedgehog & the Porcupine: Expressive Linear Attentions with Softmax Mimicry",
      2024,
      "2402.04347",
    ),
    op="normalized_linear_attention",
    state="constant",
    state_size=_linear_transformer_size,
    rows=("S326",),
  ),
  Entry(
    name="based",
    cls=Based,
    paper=Paper(
      "Simple linear attention language models balance the recall-throughput tradeoff",
      2024,
      "2402.18668",
    ),
    op="normalized_linear_attention",
    state="constant",
    state_size=_linear_transformer_size,
  ),
  Entry(
    name="rebased",
    cls=ReBased,
    paper=Paper(
      "Linear Transformers with Learnable Kernel Functions are Better In-Context "
      "Models",
      2024,
      "2402.10644",
    ),
    op="normalized_linear_attention",
    state="constant",
    state_size=_linear_transformer_size,
  ),
  Entry(
    name="lightning_attention",
    cls=LightningAttention,
    paper=Paper(
      "Various Lengths, Constant Speed: Efficient Language Modeling with Lightning "
      "Attention",
      2024,
      "2405.17381",
    ),
    op="scalar_decay",
    state="constant",
    state_size=lambda m: m.num_heads * m.head_size**2,
  ),
  Entry(
    name="transnormer",
    cls=TransNormer,
    paper=Paper("The Devil in Linear Transformer", 2022, "2210.10340"),
    op="linear_attention",
    state="constant",
    state_size=lambda m: m.num_heads * m.num_features * m.value_size,
    rows=("S192",),
  ),
  Entry(
    name="diag_attention",
    cls=DiagAttention,
    paper=Paper("The Devil in Linear Transformer", 2022, "2210.10340"),
    op="softmax_attention",
    state="window",
    state_size=lambda m: 2 * m.window * m.features + 1,
    rows=("S192",),
  ),
  Entry(
    name="lightnet",
    cls=LightNet,
    paper=Paper(
      "You Only Scan Once: Efficient Multi-dimension Sequential Modeling with LightNet",
      2024,
      "2405.21022",
    ),
    op="additive_decay",
    state="constant",
    state_size=lambda m: m.features * (m.head_size + 1),
    rows=("S054",),
  ),
  Entry(
    name="rodimus",
    cls=Rodimus,
    paper=Paper(
      "Rodimus*: Breaking the Accuracy-Efficiency Trade-Off with Efficient Attentions",
      2024,
      "2410.06577",
    ),
    op="diagonal_decay",
    state="constant",
    state_size=lambda m: m.inner_features * (m.state_size + RODIMUS_CONV_SIZE - 1),
  ),
  Entry(
    name="jrt_rnn",
    cls=JRTRNN,
    paper=Paper(
      "Just read twice: closing the recall gap for recurrent language models",
      2024,
      "2407.05483",
    ),
    op="prefix_linear_attention",
    state="constant",
    state_size=_linear_transformer_size,
    rows=("S067",),
  ),
  Entry(
    name="synaptic_resonance",
    cls=SynapticResonance,
    paper=Paper(
      "Exploring Synaptic Resonance in Large Language Models: A Novel Approach to "
      "Contextual Memory Integration",
      2025,
      None,
    ),
    op="scalar_decay",
    state="constant",
    state_size=lambda m: m.features * (m.head_size + 1),
    rows=("S072",),
  ),
  Entry(
    name="pop_retention",
    cls=POPRetention,
    paper=Paper(
      "Improving Token-Based World Models with Parallel Observation Prediction",
      2024,
      "2402.05643",
    ),
    op="scalar_decay",
    state="constant",
    state_size=lambda m: 2 * m.num_heads * m.expand_v * m.key_size**2 + 1,
    rows=("S195",),
  ),
  Entry(
    name="bidirectional_lightnet",
    cls=BidirectionalLightNet,
    paper=Paper(
      "You Only Scan Once: Efficient Multi-dimension Sequential Modeling with LightNet",
      2024,
      "2405.21022",
    ),
    op="noncausal_linear_attention",
    state="none",
    state_size=lambda m: 0,
    causal=False,
    rows=("S054",),
  ),
  Entry(
    name="sse",
    cls=SparseStateExpansion,
    paper=Paper(
      "Scaling Linear Attention with Sparse State Expansion", 2025, "2507.16577"
    ),
    op="routed_diagonal_decay",
    state="constant",
    state_size=lambda m: (m.num_partitions + 1) * m.num_heads * m.head_size**2,
    rows=("S085",),
  ),
  Entry(
    name="mom",
    cls=MixtureOfMemories,
    paper=Paper(
      "MoM: Linear Sequence Modeling with Mixture-of-Memories", 2025, "2502.13685"
    ),
    op="routed_gated_delta_rule",
    state="constant",
    state_size=_mom_size,
    rows=("S367",),
  ),
)
