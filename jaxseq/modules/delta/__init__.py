"""Delta rules: a matrix state that replaces what is stored under a key."""

from jaxseq.modules.delta.gated_delta_net import CONV_SIZE, GatedDeltaNet
from jaxseq.modules.delta.log_linear_gated_delta_net import LogLinearGatedDeltaNet
from jaxseq.modules.mixer import Entry, Paper

__all__ = ["MIXERS", "GatedDeltaNet", "LogLinearGatedDeltaNet"]


def _gated_delta_net_size(m: GatedDeltaNet) -> int:
  values = m.value_heads * m.value_size
  keys = m.num_heads * m.key_size
  return m.key_size * values + (CONV_SIZE - 1) * (2 * keys + values)


def _log_linear_gated_delta_net_size(m: LogLinearGatedDeltaNet) -> int:
  more = (m.num_levels - 2) * m.value_heads * m.key_size * m.value_size
  return _gated_delta_net_size(m) + more + 1


MIXERS = (
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
)
