"""Gated linear attention (Yang et al. 2023, arXiv:2312.06635, sec. 4.4).

g_t = log sigmoid(x_t W_1 W_2 + b) / 16        a decay for each key channel
S_t = diag(exp(g_t)) S_{t-1} + k_t v_t^T,      o_t = S_t^T q_t
y_t = (norm(o_t) * swish(x_t W_r)) W_o

With `negative_eigenvalues` the decay a_t = exp(g_t) becomes 2 a_t - 1 in (-1, 1]
(Grazzi et al. 2024, arXiv:2411.12537, sec. 4).
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer

__all__ = ["GatedLinearAttention"]

# Xavier uniform with a gain of 2^-2.5, from the authors' code.
INIT = nn.initializers.variance_scaling(2.0**-5, "fan_avg", "uniform")


class GatedLinearAttention(Mixer):
  """Linear attention whose memory fades by channel, as the input says.

  Attributes:
    num_heads: Heads H.
    expand_k: Width of all keys, as a share of `features`.
    expand_v: Width of all values, likewise.
    gate_rank: Rank of the projection to the decays.
    gate_normalizer: What log sigmoid is divided by: decays begin near 1.
    negative_eigenvalues: Whether decays range over (-1, 1] instead of (0, 1].
    norm_epsilon: Of the norm over each head's outputs.
  """

  num_heads: int = 4
  expand_k: float = 0.5
  expand_v: float = 1.0
  gate_rank: int = 16
  gate_normalizer: float = 16.0
  negative_eigenvalues: bool = False
  norm_epsilon: float = 1e-5

  def __post_init__(self):
    super().__post_init__()
    for share in (self.expand_k, self.expand_v):
      if self.features * share % self.num_heads:
        raise ValueError(
          f"GatedLinearAttention needs num_heads that divide {share} x features = "
          f"{self.features * share:g}; got {self.num_heads}"
        )

  @property
  def key_size(self) -> int:
    return round(self.features * self.expand_k) // self.num_heads

  @property
  def value_size(self) -> int:
    return round(self.features * self.expand_v) // self.num_heads

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    B, T, _ = x.shape
    x = ops.segments.clear_padding(x, segment_ids)
    H, K, V = self.num_heads, self.key_size, self.value_size

    def project(x, width, name, axes=("embed", "heads"), **options):
      return layers.projection(
        width,
        axes,
        kernel_init=INIT,
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        name=name,
        **options,
      )(x)

    q = project(x, H * K, "q").reshape(B, T, H, K)
    k = project(x, H * K, "k").reshape(B, T, H, K)
    v = project(x, H * V, "v").reshape(B, T, H, V)
    low = project(x, self.gate_rank, "gate_down", ("embed", None))
    gate = project(low, H * K, "gate_up", (None, "heads"), use_bias=True)
    log_decay = nn.log_sigmoid(gate.astype(jnp.float32)) / self.gate_normalizer
    log_decay = log_decay.reshape(B, T, H, K)
    self.show(log_decay=log_decay)
    op, decay = ops.diagonal_decay, log_decay
    if self.negative_eigenvalues:
      op, decay = ops.signed_diagonal_decay, 2 * jnp.exp(log_decay) - 1
    o, state = op(
      q,
      k,
      v,
      decay,
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    norm = layers.RMSNorm(
      self.norm_epsilon, axes=(None,), param_dtype=self.param_dtype, name="norm"
    )
    o = norm(o).reshape(B, T, H * V) * nn.swish(project(x, H * V, "output_gate"))
    return project(o, self.features, "out", ("heads", "embed")).astype(x.dtype), state

  @nn.nowrap
  def initial_state(self, batch_size: int):
    return jnp.zeros((batch_size, self.num_heads, self.key_size, self.value_size))
