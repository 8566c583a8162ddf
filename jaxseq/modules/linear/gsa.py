"""Gated slot attention (Zhang et al. 2024, arXiv:2409.07146, sec. 3).

g_t = log sigmoid(x_t W_g) / 8                       a decay for each slot
K_t = diag(exp(g_t)) K_{t-1} + (1 - exp(g_t)) k_t^T  keys of the slots [M, K]
V_t = diag(exp(g_t)) V_{t-1} + (1 - exp(g_t)) v_t^T  values of the slots [M, V]
y_t = norm(swish(V_t^T softmax(K_t q_t))) W_o,       q, k, v = swish(x W)
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer

__all__ = ["GatedSlotAttention"]


class GatedSlotAttention(Mixer):
  """Softmax attention to slots that forget as they are written.

  Attributes:
    num_heads: Heads H.
    num_slots: Slots M of each head.
    gate_normalizer: What log sigmoid is divided by: decays begin near 1.
    norm_epsilon: Of the norm over all outputs.
  """

  num_heads: int = 4
  num_slots: int = 64
  gate_normalizer: float = 8.0
  norm_epsilon: float = 1e-5

  def __post_init__(self):
    super().__post_init__()
    if self.features % self.num_heads:
      raise ValueError(
        f"GatedSlotAttention needs num_heads that divide features = {self.features}; "
        f"got {self.num_heads}"
      )

  @property
  def head_size(self) -> int:
    return self.features // self.num_heads

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    x = ops.segments.clear_padding(x, segment_ids)

    def project(x, size, name, axes=("embed", "heads")):
      types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
      return layers.projection(self.num_heads * size, axes, name=name, **types)(x)

    heads = lambda y: y.reshape(*x.shape[:2], self.num_heads, -1)
    q, k, v = (heads(nn.swish(project(x, self.head_size, name))) for name in "qkv")
    gate = heads(project(x, self.num_slots, "gate")).astype(jnp.float32)
    log_decay = nn.log_sigmoid(gate) / self.gate_normalizer
    self.show(log_decay=log_decay)
    o, state = ops.slot_attention(
      q,
      k,
      v,
      -jnp.expm1(log_decay),
      log_decay,
      initial_state=state,
      segment_ids=segment_ids,
      scale=1.0,
      implementation=self.implementation,
    )
    norm = layers.RMSNorm(
      self.norm_epsilon, axes=("heads",), param_dtype=self.param_dtype, name="norm"
    )
    o = norm(nn.swish(o.reshape(x.shape)))
    y = project(o, self.head_size, "out", ("heads", "embed"))
    return y.astype(x.dtype), state

  @nn.nowrap
  def initial_state(self, batch_size: int) -> ops.SlotState:
    shape = (batch_size, self.num_heads, self.num_slots, self.head_size)
    return ops.SlotState(jnp.zeros(shape), jnp.zeros(shape))
