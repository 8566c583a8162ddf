"""The mLSTM layer of xLSTM 7B (Beck et al. 2025, arXiv:2503.13427, sec. 3).

i = cap(x W_i + b_i),   f = log sigmoid(cap(x W_f + b_f)),   cap(a) = 15 tanh(a / 15)
h = mlstm(x W_q, x W_k, x W_v, i, f)            keys half as wide as values
y = (norm(h) * sigmoid(x W_z)) W_o

Input gates begin almost closed, b_i = -10, forget gates open, b_f between 3 and 6.
"""

import math

import flax.linen as nn
import jax.numpy as jnp

from jaxseq import layers, ops
from jaxseq.modules.linear.mlstm import forget_bias_init
from jaxseq.modules.mixer import Mixer

__all__ = ["XLSTM7B"]


class XLSTM7B(Mixer):
  """A matrix memory with capped exponential gates and an output gate.

  Attributes:
    num_heads: Heads H; those of the 7B have 256 channels of keys each.
    expand_k: Width of all keys, as a share of `features`.
    gate_cap: What no gate's logit exceeds.
    input_bias: Initial bias of the input gates.
    norm_epsilon: Of the norm over each head's outputs.
  """

  num_heads: int = 4
  expand_k: float = 0.5
  gate_cap: float = 15.0
  input_bias: float = -10.0
  norm_epsilon: float = 1e-6

  def __post_init__(self):
    super().__post_init__()
    for share in (self.expand_k, 1):
      if self.features * share % self.num_heads:
        raise ValueError(
          f"XLSTM7B needs num_heads that divide {share} x features = "
          f"{self.features * share:g}; got {self.num_heads}"
        )

  @property
  def key_size(self) -> int:
    return round(self.features * self.expand_k) // self.num_heads

  @property
  def value_size(self) -> int:
    return self.features // self.num_heads

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    B, T, D = x.shape
    H, K = self.num_heads, self.key_size
    x = ops.segments.clear_padding(x, segment_ids)
    small = nn.initializers.normal(math.sqrt(2 / (5 * D)))

    def project(x, width, name, axes=("embed", "heads"), init=small, **options):
      return layers.projection(
        width,
        axes,
        kernel_init=init,
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        name=name,
        **options,
      )(x)

    def gate(name, bias_init):
      init = nn.initializers.zeros
      a = project(x, H, name, init=init, use_bias=True, bias_init=bias_init)
      return self.gate_cap * jnp.tanh(a.astype(jnp.float32) / self.gate_cap)

    i = gate("input_gate", nn.initializers.constant(self.input_bias))
    f = nn.log_sigmoid(gate("forget_gate", forget_bias_init))
    q, k = (project(x, H * K, name).reshape(B, T, H, K) for name in "qk")
    h, state = ops.mlstm(
      q,
      k,
      project(x, D, "v").reshape(B, T, H, self.value_size),
      i,
      f,
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    norm = layers.HeadNorm(self.norm_epsilon, param_dtype=self.param_dtype, name="norm")
    h = norm(h) * nn.sigmoid(project(x, D, "output_gate"))
    return project(h, D, "out", ("heads", "embed")).astype(x.dtype), state

  @nn.nowrap
  def initial_state(self, batch_size: int) -> ops.MLSTMState:
    K, V = self.key_size, self.value_size
    zeros = lambda *shape: jnp.zeros((batch_size, self.num_heads, *shape))
    return ops.MLSTMState(zeros(K, V), zeros(K), zeros())
