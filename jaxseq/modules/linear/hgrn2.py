"""HGRN2 (Qin et al. 2024, arXiv:2404.07904, sec. 3.2).

f_t = gamma + (1 - gamma) sigmoid(x_t W_f)         forget gates, bounded from below
S_t = diag(f_t) S_{t-1} + (1 - f_t) (x_t W_i)^T,   o_t = S_t^T swish(x_t W_q)
y_t = norm(o_t) W_o

The keys are what the gates leave: no memory grows without bound. In the paper gamma
rises from layer to layer, from 0 in the first; a mixer does not know its layer.
"""

import math

import flax.linen as nn
import jax.numpy as jnp

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer

__all__ = ["HGRN2"]


class HGRN2(Mixer):
  """Linear attention whose keys are one minus its forget gates.

  Attributes:
    num_heads: Heads H; the authors' have 128 channels each.
    lower_bound: gamma in [0, 1), the least share of the memory kept at each token.
    negative_eigenvalues: Whether decays range over (-1, 1] instead of (0, 1].
    norm_epsilon: Of the norm over all outputs.
  """

  num_heads: int = 4
  lower_bound: float = 0.0
  negative_eigenvalues: bool = False
  norm_epsilon: float = 1e-5

  def __post_init__(self):
    super().__post_init__()
    if self.features % self.num_heads:
      raise ValueError(
        f"HGRN2 needs num_heads that divide features = {self.features}; "
        f"got {self.num_heads}"
      )
    if not 0 <= self.lower_bound < 1:
      raise ValueError(f"HGRN2 needs lower_bound in [0, 1); got {self.lower_bound}")

  @property
  def head_size(self) -> int:
    return self.features // self.num_heads

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    x = ops.segments.clear_padding(x, segment_ids)

    def project(x, name, axes=("embed", "heads")):
      types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
      return layers.projection(self.features, axes, name=name, **types)(x)

    heads = lambda y: y.reshape(*x.shape[:2], self.num_heads, self.head_size)
    f = heads(project(x, "forget")).astype(jnp.float32)
    log_decay = nn.log_sigmoid(f)
    if self.lower_bound:
      open_share = math.log1p(-self.lower_bound)
      log_decay = jnp.logaddexp(math.log(self.lower_bound), open_share + log_decay)
    self.show(log_decay=log_decay)
    k = (1 - self.lower_bound) * nn.sigmoid(-f)
    op, decay = ops.diagonal_decay, log_decay
    if self.negative_eigenvalues:
      op, decay = ops.signed_diagonal_decay, 2 * jnp.exp(log_decay) - 1
    o, state = op(
      heads(nn.swish(project(x, "q"))),
      k.astype(self.dtype),
      heads(project(x, "input")),
      decay,
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    norm = layers.RMSNorm(
      self.norm_epsilon, axes=("heads",), param_dtype=self.param_dtype, name="norm"
    )
    y = project(norm(o.reshape(x.shape)), "out", ("heads", "embed"))
    return y.astype(x.dtype), state

  @nn.nowrap
  def initial_state(self, batch_size: int):
    return jnp.zeros((batch_size, self.num_heads, self.head_size, self.head_size))
