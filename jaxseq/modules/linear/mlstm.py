"""The mLSTM layer of xLSTM (Beck et al. 2024, arXiv:2405.04517, sec. 2.3, fig. 11).

u, z = x W_up                                              both twice as wide as x
c = silu(conv(u)),   q = c W_q,   k = c W_k,   v = u W_v   block-diagonal
i = W_i (q, k, v) + b_i,   f = log sigmoid(W_f (q, k, v) + b_f)      a number a head
h = mlstm(q, k, v, i, f)
y = ((norm(h) + skip * c) * silu(z)) W_down

As in the authors' code W_i and W_f begin at zero, b_f between 3 and 6. The scale of
W_down falls with depth there, and is that of W_up here.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.layers import linear_init
from jaxseq.modules.mixer import Mixer

__all__ = ["MLSTM", "MLSTMLayerState", "forget_bias_init"]

CONV_SIZE = 4  # Taps W of the short convolution.
BLOCK_SIZE = 4  # Channels that q, k and v mix with each other.
WIDTH_MULTIPLE = 64  # The inner width is rounded up to one of these.


class MLSTMLayerState(NamedTuple):
  """What the layer carries: the memory, and the last inputs of the convolution."""

  memory: ops.MLSTMState
  inputs: Float[Array, "B W-1 F"]


class MLSTM(Mixer):
  """A matrix memory with exponential gates between two projections.

  Attributes:
    num_heads: Heads H.
    expand: Inner width F, as a multiple of `features`.
    norm_epsilon: Of the norm over each head's outputs.
  """

  num_heads: int = 4
  expand: float = 2.0
  norm_epsilon: float = 1e-5

  def __post_init__(self):
    super().__post_init__()
    if self.inner_features % self.num_heads:
      raise ValueError(
        f"MLSTM needs num_heads that divide the inner width {self.inner_features}; "
        f"got {self.num_heads}"
      )

  @property
  def inner_features(self) -> int:
    return WIDTH_MULTIPLE * math.ceil(self.features * self.expand / WIDTH_MULTIPLE)

  @property
  def head_size(self) -> int:
    return self.inner_features // self.num_heads

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    B, T, D = x.shape
    F, H = self.inner_features, self.num_heads
    x = ops.segments.clear_padding(x, segment_ids)
    memory, inputs = (None, None) if state is None else state
    init = nn.initializers.normal(math.sqrt(2 / (5 * D)))  # "Small init".

    def project(x, width, name, axes=("embed", "heads"), init=init, **options):
      return layers.projection(
        width,
        axes,
        kernel_init=init,
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        name=name,
        **options,
      )(x)

    def mix_blocks(x, name):
      """A product with a block-diagonal matrix."""
      shape = (F // BLOCK_SIZE, BLOCK_SIZE, BLOCK_SIZE)
      blocks = nn.with_logical_partitioning(init, ("heads", None, None))
      W = self.param(name, blocks, shape, self.param_dtype).astype(self.dtype)
      y = jnp.einsum("btni,nio->btno", x.reshape(B, T, *shape[:2]), W)
      return y.reshape(B, T, F)

    u = project(x, F, "up")
    c, inputs = self._convolve(u, inputs, segment_ids)
    q, k, v = mix_blocks(c, "q"), mix_blocks(c, "k"), mix_blocks(u, "v")
    qkv = jnp.concatenate([q, k, v], axis=-1)
    gate = dict(axes=("heads", None), init=nn.initializers.zeros, use_bias=True)
    i = project(qkv, H, "input_gate", bias_init=nn.initializers.normal(0.1), **gate)
    f = project(qkv, H, "forget_gate", bias_init=forget_bias_init, **gate)
    heads = lambda y: y.reshape(B, T, H, self.head_size)
    h, memory = ops.mlstm(
      heads(q),
      heads(k),
      heads(v),
      i,
      nn.log_sigmoid(f.astype(jnp.float32)),
      initial_state=memory,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    norm = layers.HeadNorm(self.norm_epsilon, param_dtype=self.param_dtype, name="norm")
    ones = nn.with_logical_partitioning(nn.initializers.ones, ("heads",))
    skip = self.param("skip", ones, (F,), self.param_dtype).astype(self.dtype)
    h = (norm(h) + skip * c) * nn.silu(project(x, F, "gate"))
    y = project(h, D, "down", ("heads", "embed")).astype(x.dtype)
    return y, MLSTMLayerState(memory, inputs)

  def _convolve(self, u, inputs, segment_ids):
    init = nn.with_logical_partitioning(linear_init.kernel_init, (None, "heads"))
    zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("heads",))
    F = u.shape[-1]
    return ops.short_conv(
      u,
      self.param("conv", init, (CONV_SIZE, F), self.param_dtype),
      self.param("conv_bias", zeros, (F,), self.param_dtype),
      activation="silu",
      initial_state=inputs,
      segment_ids=segment_ids,
    )

  @nn.nowrap
  def initial_state(self, batch_size: int) -> MLSTMLayerState:
    K = self.head_size
    zeros = lambda *shape: jnp.zeros((batch_size, *shape))
    H = self.num_heads
    memory = ops.MLSTMState(zeros(H, K, K), zeros(H, K), zeros(H))
    return MLSTMLayerState(memory, zeros(CONV_SIZE - 1, self.inner_features))


def forget_bias_init(key, shape, dtype):
  """From 3, where a head keeps 95% at each token, to 6, where it keeps 99.8%."""
  return jnp.linspace(3, 6, shape[0], dtype=dtype)
