"""Vision retention (ViR, Hatamizadeh et al. 2023, arXiv:2310.19731, sec. 3).

S_t = gamma_h S_{t-1} + k_t v_t^T,   o_t = S_t^T q_t / sqrt(K),   gamma_h = 1 - 2^(-5-h)
y_t = gelu(norm(o_t)) W_o + b_o                  a layer norm over all heads

The patches of an image are read once, row by row, without a position in queries and
keys; a class token stands last, where it sees them all. From the parallel form an image
is learned at once, from the recurrent one it is read with a state of one size.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxseq import ops
from jaxseq.modules.grid import heads
from jaxseq.modules.mixer import Mixer

__all__ = ["ViR"]


class ViR(Mixer):
  """Retention as the mixer of a vision transformer: causal, ungated, no rotation.

  Attributes:
    num_heads: Heads H.
  """

  num_heads: int = 4

  def __post_init__(self):
    super().__post_init__()
    heads.check_heads(self)

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    B, T, _ = x.shape
    kind = x.dtype
    x = ops.segments.clear_padding(x, segment_ids)
    q, k, v = (
      heads.split(self, heads.project(self, x, self.features, name)) for name in "qkv"
    )
    log_decay = jnp.log1p(-jnp.exp2(-5.0 - jnp.arange(self.num_heads)))
    log_decay = jnp.broadcast_to(log_decay, (B, T, self.num_heads))
    self.show(log_decay=log_decay)
    o, state = ops.scalar_decay(
      q,
      k,
      v,
      log_decay,
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    norm = nn.LayerNorm(
      epsilon=1e-5,
      scale_init=nn.with_logical_partitioning(nn.initializers.ones, ("heads",)),
      bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("heads",)),
      param_dtype=self.param_dtype,
      name="norm",
    )
    o = nn.gelu(norm(o.reshape(B, T, -1).astype(jnp.float32)), approximate=False)
    return heads.merge(self, o, x.astype(kind), segment_ids), state

  @nn.nowrap
  def initial_state(self, batch_size: int):
    size = self.features // self.num_heads
    return jnp.zeros((batch_size, self.num_heads, size, size))
