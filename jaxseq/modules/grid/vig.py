"""Bidirectional gated linear attention (ViG, Liao et al. 2024, arXiv:2405.18425).

c = swish(conv(x))                                     depthwise, 3 x 3 on the grid
q, k, v = c W_q, c W_k, c W_v,    f, g = log sigmoid(c W_1 W_2 + b) / 16
o_t = (F_t + G_t)^T q_t / 2       F from the left, fading by exp(f), G from the right
r = sigmoid(c W_r + b_r),         y = (r * norm(o) + (1 - r) * norm(c)) W_o

so that the gate r chooses between what is far, along the sequence, and what is near, on
the grid. Details are those of the authors' code.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxseq import layers, ops
from jaxseq.modules.grid import heads
from jaxseq.modules.mixer import Mixer

__all__ = ["ViG"]

# Xavier uniform with a gain of 2^-2.5, from the authors' code.
INIT = nn.initializers.variance_scaling(2.0**-5, "fan_avg", "uniform")
GATE_NORMALIZER = 16.0


class ViG(Mixer):
  """Gated linear attention in both directions, with a gate to the neighbourhood.

  Attributes:
    num_heads: Heads H.
    expand_k: Width of all keys, as a share of `features`.
    gate_rank: Rank of the projection to the decays.
    grid: Rows and columns of the image; None is a sequence, whose convolution has one
      axis.
  """

  num_heads: int = 4
  expand_k: float = 0.5
  gate_rank: int = 16
  grid: tuple[int, int] | None = None

  def __post_init__(self):
    super().__post_init__()
    heads.check_heads(self)
    if self.features * self.expand_k % self.num_heads:
      raise ValueError(
        f"ViG needs num_heads that divide {self.expand_k} x features = "
        f"{self.features * self.expand_k:g}; got {self.num_heads}"
      )

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    self.refuse_state(state)
    kind = x.dtype
    x = ops.segments.clear_padding(x, segment_ids).astype(self.dtype)

    def project(x, width, name, axes=("embed", "heads"), use_bias=False):
      return heads.project(
        self, x, width, name, axes, use_bias=use_bias, kernel_init=INIT
      )

    def norm(x, name):
      return layers.RMSNorm(
        1e-5, axes=(None,), param_dtype=self.param_dtype, name=name
      )(x.astype(jnp.float32))

    types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    convolve = layers.DepthwiseConv(
      3, self.grid, axes="embed", kernel_init=INIT, name="conv", **types
    )
    local = nn.swish(convolve(x, segment_ids))
    key_width = round(self.features * self.expand_k)
    q, k = (heads.split(self, project(local, key_width, name)) for name in "qk")
    v = heads.split(self, project(local, self.features, "v"))
    low = project(local, self.gate_rank, "gate_down", ("embed", None))
    gates = project(low, 2 * key_width, "gate_up", (None, "heads"), use_bias=True)
    gates = nn.log_sigmoid(gates.astype(jnp.float32)) / GATE_NORMALIZER
    forward, backward = (heads.split(self, g) for g in jnp.split(gates, 2, axis=-1))
    o = ops.bidirectional(
      q,
      k,
      v,
      forward,
      backward,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    share = nn.sigmoid(project(local, self.features, "output_gate", use_bias=True))
    share = heads.split(self, share)
    far, near = norm(o / 2, "norm"), norm(heads.split(self, local), "local_norm")
    o = (share * far + (1 - share) * near).astype(self.dtype)
    y = project(o.reshape(x.shape), self.features, "out", ("heads", "embed"))
    return ops.segments.clear_padding(y.astype(kind), segment_ids), None
