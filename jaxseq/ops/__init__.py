"""The public ops: pure functions on arrays [batch, time, heads, dim].

o, state = op(q, k, v, ..., *, initial_state=None, segment_ids=None, scale=None,
              implementation="auto")
"""

from jaxseq.ops import segments
from jaxseq.ops.chunks import product
from jaxseq.ops.conv.short_conv import short_conv
from jaxseq.ops.delta.gated_delta_rule import gated_delta_rule
from jaxseq.ops.linear.diagonal_decay import diagonal_decay
from jaxseq.ops.linear.linear_attention import linear_attention
from jaxseq.ops.linear.scalar_decay import scalar_decay
from jaxseq.ops.linear.signed_diagonal_decay import signed_diagonal_decay
from jaxseq.ops.linear.signed_scalar_decay import signed_scalar_decay
from jaxseq.ops.rnn.lstm import LSTMState, lstm
from jaxseq.ops.softmax import kv_cache
from jaxseq.ops.softmax.softmax_attention import softmax_attention
from jaxseq.ops.ssm.diagonal_recurrence import diagonal_recurrence

__all__ = [
  "LSTMState",
  "diagonal_decay",
  "diagonal_recurrence",
  "gated_delta_rule",
  "kv_cache",
  "linear_attention",
  "lstm",
  "product",
  "scalar_decay",
  "segments",
  "short_conv",
  "signed_diagonal_decay",
  "signed_scalar_decay",
  "softmax_attention",
]
