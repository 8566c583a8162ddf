"""The LSTM (Hochreiter & Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735).

    i, f, g, o = W x_t + b + R h_{t-1}
    c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g),   h_t = sigmoid(o) tanh(c_t)

With forget gates (Gers et al. 2000); with more than one head R is block-diagonal
(FlashRNN, Poeppel et al. 2024, arXiv:2412.07752). The forget gates' bias begins at 1
(Jozefowicz et al. 2015).
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxseq import ops
from jaxseq.modules.mixer import Mixer
from jaxseq.modules.rnn import heads

__all__ = ["LSTM"]


class LSTM(Mixer):
  """The long short-term memory; its output is its hidden state.

  Attributes:
    num_heads: Blocks of R. 1 is the classical network.
  """

  num_heads: int = 1

  def __post_init__(self):
    super().__post_init__()
    heads.check(self)

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    x = ops.segments.clear_padding(x, segment_ids)
    h, state = ops.lstm(
      heads.gates(self, x, 4, _forget_one),
      heads.recurrent_weights(self, 4),
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    return h.reshape(*x.shape[:2], -1).astype(x.dtype), state

  @nn.nowrap
  def initial_state(self, batch_size: int) -> ops.LSTMState:
    K = self.features // self.num_heads
    zeros = jnp.zeros((batch_size, self.num_heads, K))
    return ops.LSTMState(zeros, zeros)


def _forget_one(key, shape, dtype):
  return jnp.zeros(shape, dtype).at[:, 1].set(1)
