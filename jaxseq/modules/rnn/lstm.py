"""The LSTM (Hochreiter & Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735).

    i, f, g, o = W x_t + b + R h_{t-1}
    c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g),   h_t = sigmoid(o) tanh(c_t)

With forget gates (Gers et al. 2000); with more than one head R is block-diagonal
(FlashRNN, Poeppel et al. 2024, arXiv:2412.07752). The forget gates' bias begins at 1
(Jozefowicz et al. 2015).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer

__all__ = ["LSTM"]


class LSTM(Mixer):
  """The long short-term memory; its output is its hidden state.

  Attributes:
    num_heads: Blocks of R. 1 is the classical network.
  """

  num_heads: int = 1

  def __post_init__(self):
    super().__post_init__()
    if self.features % self.num_heads:
      raise ValueError(
        f"LSTM needs num_heads that divide features = {self.features}; "
        f"got {self.num_heads}"
      )

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    B, T, _ = x.shape
    H, K = self.num_heads, self.features // self.num_heads
    x = ops.segments.clear_padding(x, segment_ids)
    gates = layers.projection(
      4 * self.features,
      ("embed", "heads"),
      use_bias=True,
      bias_init=_forget_one(H, K),
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name="gates",
    )(x)
    orthogonal = nn.with_logical_partitioning(_orthogonal, (None, None, "heads", None))
    R = self.param("recurrent", orthogonal, (H, 4, K, K), self.param_dtype)
    h, state = ops.lstm(
      gates.reshape(B, T, H, 4, K),
      R,
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    return h.reshape(B, T, self.features).astype(x.dtype), state

  @nn.nowrap
  def initial_state(self, batch_size: int) -> ops.LSTMState:
    K = self.features // self.num_heads
    zeros = jnp.zeros((batch_size, self.num_heads, K))
    return ops.LSTMState(zeros, zeros)


def _forget_one(H, K):
  def init(key, shape, dtype):
    return jnp.zeros((H, 4, K), dtype).at[:, 1].set(1).reshape(shape)

  return init


def _orthogonal(key, shape, dtype):
  """Each gate's matrix of each head is orthogonal."""
  H, gates, K, _ = shape
  one = lambda key: nn.initializers.orthogonal()(key, (K, K), dtype)
  return jax.vmap(one)(jax.random.split(key, H * gates)).reshape(shape)
