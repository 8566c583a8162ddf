"""The GRU (Cho et al. 2014, arXiv:1406.1078, eq. 5 to 8).

    r, z = sigmoid(W_rz x_t + b_rz + R_rz h_{t-1})
    n = tanh(W_n x_t + b_n + r * (R_n h_{t-1} + c))       reset "after" the product
    n = tanh(W_n x_t + b_n + R_n (r * h_{t-1}))           reset "before" it
    h_t = z h_{t-1} + (1 - z) n

The paper resets the state before the product; PyTorch, cuDNN and FlashRNN (Poeppel et
al. 2024, arXiv:2412.07752) after it, which is as good and faster. With more than one
head R is block-diagonal.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import ops
from jaxseq.modules.mixer import Mixer
from jaxseq.modules.rnn import heads
from jaxseq.ops.rnn.gru import RESETS

__all__ = ["GRU"]


class GRU(Mixer):
  """The gated recurrent unit; its output is its hidden state.

  Attributes:
    num_heads: Blocks of R. 1 is the classical network.
    reset: Whether the state is reset "after" or "before" the candidate's product.
  """

  num_heads: int = 1
  reset: str = "after"

  def __post_init__(self):
    super().__post_init__()
    heads.check(self)
    if self.reset not in RESETS:
      raise ValueError(f"GRU needs reset in {RESETS}; got {self.reset!r}")

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    x = ops.segments.clear_padding(x, segment_ids)
    gates, bias = heads.gates(self, x, 3), None
    if self.reset == "after":
      zeros = nn.with_logical_partitioning(nn.initializers.zeros, (None, "heads"))
      shape = gates.shape[2], gates.shape[4]
      bias = self.param("recurrent_bias", zeros, shape, self.param_dtype)
    h, state = ops.gru(
      gates,
      heads.recurrent_weights(self, 3),
      bias,
      reset=self.reset,
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    return h.reshape(*x.shape[:2], -1).astype(x.dtype), state

  @nn.nowrap
  def initial_state(self, batch_size: int) -> Float[Array, "B H K"]:
    return jnp.zeros((batch_size, self.num_heads, self.features // self.num_heads))
