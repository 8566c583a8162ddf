"""Lightning attention, the layer of TransNormerLLM (Qin et al. 2024, arXiv:2405.17381).

S_t = lambda_h S_{t-1} + k_t v_t^T,   o_t = S_t^T q_t,   q, k = swish(x W)
lambda_h = exp(-2^(-8 (h + 1) / H) (1 - depth))         h = 0 .. H - 1
y_t = (norm(o_t) * x_t W_u) W_o

(sec. 3.2; the decays are those of the authors' code.) There is no denominator: an RMS
norm of all heads together, without a scale, takes its place. The name is that of the
algorithm, within blocks and from block to block (Lightning Attention-2, Qin et al.
2024, arXiv:2401.04658): the chunked form of `ops.scalar_decay`. The relative positions
that the paper gives to the first layer alone are left out.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer

__all__ = ["LightningAttention"]

LEAST_RATE = 1e-5  # Of a decay in the last layer, as a share of that in the first.


class LightningAttention(Mixer):
  """Linear attention with fixed decays, normalised after it is read.

  Attributes:
    num_heads: Heads H.
    depth: Place of the layer in its stack, from 0 for the first to 1 for the last: the
      deeper, the longer the memory. A mixer does not know it; in a scanned stack all
      layers have the same.
    norm_epsilon: Of the norm over all outputs.
  """

  num_heads: int = 4
  depth: float = 0.0
  norm_epsilon: float = 1e-6

  def __post_init__(self):
    super().__post_init__()
    if self.features % self.num_heads:
      raise ValueError(
        f"LightningAttention needs num_heads that divide features = {self.features}; "
        f"got {self.num_heads}"
      )
    if not 0 <= self.depth <= 1:
      raise ValueError(f"LightningAttention needs depth in [0, 1]; got {self.depth}")

  @property
  def head_size(self) -> int:
    return self.features // self.num_heads

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    B, T, D = x.shape
    x = ops.segments.clear_padding(x, segment_ids)
    H = self.num_heads

    def project(x, name, axes=("embed", "heads")):
      types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
      return layers.projection(D, axes, name=name, **types)(x)

    heads = lambda y: y.reshape(B, T, H, self.head_size)
    log_decay = -jnp.exp2(-8 / H * jnp.arange(1, H + 1)) * (1 - self.depth + LEAST_RATE)
    log_decay = jnp.broadcast_to(log_decay, (B, T, H))
    self.show(log_decay=log_decay)
    o, state = ops.scalar_decay(
      heads(nn.swish(project(x, "q"))),
      heads(nn.swish(project(x, "k"))),
      heads(project(x, "v")),
      log_decay,
      initial_state=state,
      segment_ids=segment_ids,
      scale=1.0,
      implementation=self.implementation,
    )
    norm = layers.RMSNorm(self.norm_epsilon, use_scale=False, name="norm")
    o = norm(o.reshape(B, T, D)) * project(x, "gate")
    return project(o, "out", ("heads", "embed")).astype(x.dtype), state

  @nn.nowrap
  def initial_state(self, batch_size: int):
    size = self.head_size
    return jnp.zeros((batch_size, self.num_heads, size, size))
