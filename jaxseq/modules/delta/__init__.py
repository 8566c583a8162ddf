"""Delta rules: a matrix state that replaces what is stored under a key."""

from jaxseq.modules.delta.comba import Comba
from jaxseq.modules.delta.delta_net import DeltaNet
from jaxseq.modules.delta.delta_product import DeltaProduct, GatedDeltaProduct
from jaxseq.modules.delta.gated_delta_net import CONV_SIZE, GatedDeltaNet
from jaxseq.modules.delta.gated_delta_net2 import GatedDeltaNet2
from jaxseq.modules.delta.kimi_delta_attention import KimiDeltaAttention
from jaxseq.modules.delta.log_linear_gated_delta_net import LogLinearGatedDeltaNet
from jaxseq.modules.delta.mesa_net import MesaNet
from jaxseq.modules.delta.meta_state import MetaState
from jaxseq.modules.delta.rwkv7 import RWKV7
from jaxseq.modules.mixer import Entry, Paper

__all__ = [
  "MIXERS",
  "Comba",
  "DeltaNet",
  "DeltaProduct",
  "GatedDeltaNet",
  "GatedDeltaNet2",
  "GatedDeltaProduct",
  "KimiDeltaAttention",
  "LogLinearGatedDeltaNet",
  "MesaNet",
  "MetaState",
  "RWKV7",
]


def _gated_delta_net_size(m: GatedDeltaNet) -> int:
  values = m.value_heads * m.value_size
  keys = m.num_heads * m.key_size
  inputs = keys + m.num_steps * (keys + values)
  return m.key_size * values + (CONV_SIZE - 1) * inputs


def _log_linear_gated_delta_net_size(m: LogLinearGatedDeltaNet) -> int:
  more = (m.num_levels - 2) * m.value_heads * m.key_size * m.value_size
  return _gated_delta_net_size(m) + more + 1


def _mesa_net_size(m: MesaNet) -> int:
  sums = 2 * m.features * (m.features // m.num_heads)
  return sums + 2 * (CONV_SIZE - 1) * m.features


DELTA_PRODUCT = Paper(
  "DeltaProduct: Improving State-Tracking in Linear RNNs via Householder Products",
  2025,
  "2502.10297",
)

MIXERS = (
  Entry(
    name="delta_net",
    cls=DeltaNet,
    paper=Paper(
      "Parallelizing Linear Transformers with the Delta Rule over Sequence Length",
      2024,
      "2406.06484",
    ),
    op="delta_rule",
    state="constant",
    state_size=_gated_delta_net_size,
    rows=("S063", "S357"),
  ),
  Entry(
    name="delta_product",
    cls=DeltaProduct,
    paper=DELTA_PRODUCT,
    op="delta_product",
    state="constant",
    state_size=_gated_delta_net_size,
    rows=("S083",),
  ),
  Entry(
    name="gated_delta_product",
    cls=GatedDeltaProduct,
    paper=DELTA_PRODUCT,
    op="delta_product",
    state="constant",
    state_size=_gated_delta_net_size,
    rows=("S083",),
  ),
  Entry(
    name="gated_delta_net",
    cls=GatedDeltaNet,
    paper=Paper(
      "Gated Delta Networks: Improving Mamba2 with Delta Rule", 2024, "2412.06464"
    ),
    op="gated_delta_rule",
    state="constant",
    state_size=_gated_delta_net_size,
  ),
  Entry(
    name="log_linear_gated_delta_net",
    cls=LogLinearGatedDeltaNet,
    paper=Paper("Log-Linear Attention", 2025, "2506.04761"),
    op="log_linear_delta",
    state="constant",
    state_size=_log_linear_gated_delta_net_size,
    rows=("S301",),
  ),
  Entry(
    name="kimi_delta_attention",
    cls=KimiDeltaAttention,
    paper=Paper(
      "Kimi Linear: An Expressive, Efficient Attention Architecture", 2025, "2510.26692"
    ),
    op="channel_delta_rule",
    state="constant",
    state_size=_gated_delta_net_size,
  ),
  Entry(
    name="gated_delta_net2",
    cls=GatedDeltaNet2,
    paper=Paper(
      "Gated DeltaNet-2: Decoupling Erase and Write in Linear Attention",
      2026,
      "2605.22791",
    ),
    op="decoupled_delta_rule",
    state="constant",
    state_size=_gated_delta_net_size,
  ),
  Entry(
    name="comba",
    cls=Comba,
    paper=Paper("Improving Bilinear RNNs with Closed-loop Control", 2025, "2506.02475"),
    op="splr",
    state="constant",
    state_size=_gated_delta_net_size,
  ),
  Entry(
    name="mesa_net",
    cls=MesaNet,
    paper=Paper(
      "MesaNet: Sequence Modeling by Locally Optimal Test-Time Training",
      2025,
      "2506.05233",
    ),
    op="mesa",
    state="constant",
    state_size=_mesa_net_size,
    rows=("S163",),
  ),
  Entry(
    name="rwkv7",
    cls=RWKV7,
    paper=Paper(
      'RWKV-7 "Goose" with Expressive Dynamic State Evolution', 2025, "2503.14456"
    ),
    op="dplr",
    state="constant",
    state_size=lambda m: m.features * (m.head_size + 1),
  ),
  Entry(
    name="meta_state",
    cls=MetaState,
    paper=Paper(
      "Millions of States: Designing a Scalable MoE Architecture with RWKV-7 "
      "Meta-learner",
      2025,
      "2504.08247",
    ),
    op="dplr",
    state="constant",
    state_size=lambda m: m.features * (m.head_size + 1),
    rows=("S118",),
  ),
)
