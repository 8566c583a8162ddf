"""The sLSTM layer of xLSTM (Beck et al. 2024, arXiv:2405.04517, sec. 2.2 and 2.4).

    u = silu(conv(x))
    i, f = W_if u + b_if + R_if h_{t-1},   z, o = W_zo x + b_zo + R_zo h_{t-1}
    y = norm(slstm(i, f, z, o))

All W and R are block-diagonal, a block a head, and the norm is one of each head. As in
the authors' code R begins at zero, and b_f falls along a head's channels from 5 to -7,
by the power 0.3 (there the power grows with depth, and this is the first layer's).

The authors' block around it is post-up-projection: x <- x + slstm(norm(x)), x <- x +
mlp(norm(x)) with a gated GELU. `models.xlstm_config` stacks it and `mlstm` blocks.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.layers import linear_init
from jaxseq.modules.mixer import Mixer
from jaxseq.modules.rnn import heads

__all__ = ["CONV_SIZE", "SLSTM", "SLSTMLayerState"]

CONV_SIZE = 4  # Taps W of the short convolution.


class SLSTMLayerState(NamedTuple):
  """What the layer carries: the memory, and the last inputs of the convolution."""

  memory: ops.SLSTMState
  inputs: Float[Array, "B W-1 D"]


class SLSTM(Mixer):
  """A scalar memory with exponential gates that see the state.

  Attributes:
    num_heads: Heads H.
    norm_epsilon: Of the norm over each head's outputs.
  """

  num_heads: int = 4
  norm_epsilon: float = 1e-5

  def __post_init__(self):
    super().__post_init__()
    heads.check(self)

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    B, T, D = x.shape
    H, K = self.num_heads, D // self.num_heads
    x = ops.segments.clear_padding(x, segment_ids)
    memory, inputs = (None, None) if state is None else state
    zeros = nn.initializers.zeros
    u, inputs = ops.short_conv(
      x,
      self._param("conv", linear_init.kernel_init, (CONV_SIZE, D), (None, "embed")),
      self._param("conv_bias", zeros, (D,), ("embed",)),
      activation="silu",
      initial_state=inputs,
      segment_ids=segment_ids,
    )
    small = nn.initializers.normal(math.sqrt(2 / (5 * D)))
    W = self._param("gates", small, (H, 4, K, K), (None, None, "heads", None))
    of_heads = lambda x: x.reshape(B, T, H, K).astype(self.dtype)
    mix = lambda x, W: ops.product("bthk,hgjk->bthgj", of_heads(x), W, like=of_heads(x))
    gates = jnp.concatenate([mix(u, W[:, :2]), mix(x, W[:, 2:])], axis=3)
    gates += self._param("bias", _bias_init, (H, 4, K), (None, None, "heads"))
    R = self._param("recurrent", zeros, (H, 4, K, K), (None, None, "heads", None))
    h, memory = ops.slstm(
      gates,
      R.astype(self.dtype),
      initial_state=memory,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    norm = layers.HeadNorm(self.norm_epsilon, param_dtype=self.param_dtype, name="norm")
    return norm(h).astype(x.dtype), SLSTMLayerState(memory, inputs)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> SLSTMLayerState:
    zeros = jnp.zeros((batch_size, self.num_heads, self.features // self.num_heads))
    inputs = jnp.zeros((batch_size, CONV_SIZE - 1, self.features))
    return SLSTMLayerState(ops.SLSTMState(zeros, zeros, zeros, zeros), inputs)


def _bias_init(key, shape, dtype):
  """Forget gates from 5, almost open, to -7, almost closed."""
  place = jnp.linspace(0, 1, shape[2], dtype=dtype)
  return jnp.zeros(shape, dtype).at[:, 1].set(5 - 12 * place**0.3)
