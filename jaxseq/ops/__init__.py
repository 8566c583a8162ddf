"""The public ops: pure functions on arrays [batch, time, heads, dim].

o, state = op(q, k, v, ..., *, initial_state=None, segment_ids=None, scale=None,
              implementation="auto")
"""

from jaxseq.ops import documents, segments
from jaxseq.ops.chunks import product
from jaxseq.ops.conv.dense_conv import dense_conv
from jaxseq.ops.conv.depthwise_conv import depthwise_conv
from jaxseq.ops.conv.fft_conv import fft_conv
from jaxseq.ops.conv.fourier import fourier
from jaxseq.ops.conv.gated_conv import GatedConvState, gated_conv
from jaxseq.ops.conv.modal_conv import modal_conv, modal_filter
from jaxseq.ops.conv.piecewise_max import piecewise_max
from jaxseq.ops.conv.routed_short_conv import routed_short_conv
from jaxseq.ops.conv.short_conv import short_conv
from jaxseq.ops.conv.token_shift import token_shift
from jaxseq.ops.conv.two_sided_conv import two_sided_conv
from jaxseq.ops.delta.channel_delta_rule import channel_delta_rule
from jaxseq.ops.delta.decoupled_delta_rule import decoupled_delta_rule
from jaxseq.ops.delta.delta_product import delta_product
from jaxseq.ops.delta.delta_rule import delta_rule
from jaxseq.ops.delta.dplr import dplr, iplr
from jaxseq.ops.delta.gated_delta_rule import gated_delta_rule
from jaxseq.ops.delta.log_linear_delta import log_linear_delta
from jaxseq.ops.delta.mesa import MesaState, mesa
from jaxseq.ops.delta.routed_gated_delta_rule import routed_gated_delta_rule
from jaxseq.ops.delta.splr import splr
from jaxseq.ops.fenwick import FenwickState
from jaxseq.ops.grid.plstm_2d import plstm_2d
from jaxseq.ops.linear.additive_decay import AdditiveDecayState, additive_decay
from jaxseq.ops.linear.bidirectional import bidirectional
from jaxseq.ops.linear.diagonal_decay import diagonal_decay
from jaxseq.ops.linear.linear_attention import linear_attention
from jaxseq.ops.linear.log_linear import log_linear
from jaxseq.ops.linear.mlstm import MLSTMState, mlstm
from jaxseq.ops.linear.noncausal_linear_attention import noncausal_linear_attention
from jaxseq.ops.linear.normalized_linear_attention import (
  LinearAttentionState,
  normalized_linear_attention,
)
from jaxseq.ops.linear.prefix_linear_attention import prefix_linear_attention
from jaxseq.ops.linear.quasiseparable import quasiseparable
from jaxseq.ops.linear.routed_diagonal_decay import routed_diagonal_decay
from jaxseq.ops.linear.scalar_decay import scalar_decay
from jaxseq.ops.linear.signed_diagonal_decay import signed_diagonal_decay
from jaxseq.ops.linear.signed_scalar_decay import signed_scalar_decay
from jaxseq.ops.linear.slot_attention import SlotState, slot_attention, softmax_writes
from jaxseq.ops.linear.structured_matrices import (
  cauchy_matrix,
  dense_matrix,
  toeplitz_matrix,
  vandermonde_matrix,
)
from jaxseq.ops.linear.time_mix import time_mix
from jaxseq.ops.linear.toeplitz_attention import toeplitz_attention
from jaxseq.ops.linear.trapezoidal_decay import TrapezoidalState, trapezoidal_decay
from jaxseq.ops.rnn.elman import elman
from jaxseq.ops.rnn.gru import gru
from jaxseq.ops.rnn.lif import lif, spike
from jaxseq.ops.rnn.lmu import LMUState, LMUWeights, lmu
from jaxseq.ops.rnn.lstm import LSTMState, lstm
from jaxseq.ops.rnn.slstm import SLSTMState, slstm
from jaxseq.ops.rnn.sru import sru
from jaxseq.ops.rnn.wkv import WKVState, wkv
from jaxseq.ops.softmax import kv_cache
from jaxseq.ops.softmax.relative_attention import relative_attention
from jaxseq.ops.softmax.softmax_attention import softmax_attention
from jaxseq.ops.ssm.dense_recurrence import dense_recurrence
from jaxseq.ops.ssm.diagonal_delta_rule import diagonal_delta_rule
from jaxseq.ops.ssm.diagonal_recurrence import diagonal_recurrence
from jaxseq.ops.ssm.linear_system import linear_system
from jaxseq.ops.ssm.selective_scan import selective_scan

__all__ = [
  "AdditiveDecayState",
  "FenwickState",
  "GatedConvState",
  "LMUState",
  "LMUWeights",
  "LSTMState",
  "LinearAttentionState",
  "MLSTMState",
  "MesaState",
  "SLSTMState",
  "SlotState",
  "TrapezoidalState",
  "WKVState",
  "additive_decay",
  "bidirectional",
  "cauchy_matrix",
  "channel_delta_rule",
  "decoupled_delta_rule",
  "delta_product",
  "delta_rule",
  "dense_conv",
  "dense_matrix",
  "dense_recurrence",
  "depthwise_conv",
  "diagonal_decay",
  "diagonal_delta_rule",
  "diagonal_recurrence",
  "documents",
  "dplr",
  "elman",
  "fft_conv",
  "fourier",
  "gated_conv",
  "gated_delta_rule",
  "gru",
  "iplr",
  "kv_cache",
  "lif",
  "linear_attention",
  "linear_system",
  "lmu",
  "log_linear",
  "log_linear_delta",
  "lstm",
  "mesa",
  "mlstm",
  "modal_conv",
  "modal_filter",
  "noncausal_linear_attention",
  "normalized_linear_attention",
  "piecewise_max",
  "plstm_2d",
  "prefix_linear_attention",
  "product",
  "quasiseparable",
  "relative_attention",
  "routed_diagonal_decay",
  "routed_gated_delta_rule",
  "routed_short_conv",
  "scalar_decay",
  "segments",
  "selective_scan",
  "short_conv",
  "signed_diagonal_decay",
  "signed_scalar_decay",
  "slot_attention",
  "slstm",
  "softmax_attention",
  "softmax_writes",
  "spike",
  "splr",
  "sru",
  "time_mix",
  "toeplitz_attention",
  "toeplitz_matrix",
  "token_shift",
  "trapezoidal_decay",
  "two_sided_conv",
  "vandermonde_matrix",
  "wkv",
]
