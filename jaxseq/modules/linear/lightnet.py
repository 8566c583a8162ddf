"""LightNet, causal (Qin et al. 2024, arXiv:2405.21022, sec. 3).

D_t = D_{t-1} + exp(k_t)
S_t = diag(D_{t-1} / D_t) S_{t-1} + (exp(k_t) / D_t) v_t^T
o_t = S_t^T swish(x_t W_q)
y_t = (norm(o_t) * swish(x_t W_1 W_2)) W_o

The memory holds means of values under softmaxes over time. The state carries log D.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer
from jaxseq.ops.linear import additive_decay

__all__ = ["LightNet"]


class LightNet(Mixer):
  """Linear attention whose decays make a softmax of its keys.

  Attributes:
    num_heads: Heads H; the authors' have 128 channels each.
    gate_rank: Rank of the output gate.
    norm_epsilon: Of the norm over all outputs.
  """

  num_heads: int = 4
  gate_rank: int = 128
  norm_epsilon: float = 1e-5

  def __post_init__(self):
    super().__post_init__()
    if self.features % self.num_heads:
      raise ValueError(
        f"{type(self).__name__} needs num_heads that divide features = "
        f"{self.features}; got {self.num_heads}"
      )

  @property
  def head_size(self) -> int:
    return self.features // self.num_heads

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    B, T, D = x.shape
    x = ops.segments.clear_padding(x, segment_ids)

    def project(x, width, name, axes=("embed", "heads")):
      types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
      return layers.projection(width, axes, name=name, **types)(x)

    heads = lambda y: y.reshape(B, T, self.num_heads, self.head_size)
    q, k, v = (heads(project(x, D, name)) for name in "qkv")
    o, state = self._attend(nn.swish(q), k, v, state, segment_ids)
    norm = layers.RMSNorm(
      self.norm_epsilon, axes=("heads",), param_dtype=self.param_dtype, name="norm"
    )
    low = project(x, self.gate_rank, "gate_down", ("embed", None))
    gate = nn.swish(project(low, D, "gate_up", (None, "heads")))
    o = norm(o.reshape(B, T, D)) * gate
    return project(o, D, "out", ("heads", "embed")).astype(x.dtype), state

  def _attend(self, q, k, v, state, segment_ids):
    return ops.additive_decay(
      q,
      k,
      v,
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )

  @nn.nowrap
  def initial_state(self, batch_size: int) -> ops.AdditiveDecayState:
    shape = (batch_size, self.num_heads, self.head_size)
    S, z = jnp.zeros((*shape, self.head_size)), jnp.full(shape, additive_decay.EMPTY)
    return ops.AdditiveDecayState(S, z)
