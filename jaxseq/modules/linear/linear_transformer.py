"""The linear transformer (Katharopoulos et al. 2020, arXiv:2006.16236, sec. 3).

S_t = S_{t-1} + phi(k_t) v_t^T,   z_t = z_{t-1} + phi(k_t),   phi(x) = elu(x) + 1
o_t = S_t^T phi(q_t) / z_t^T phi(q_t)
y_t = o_t W_o + b_o

Mixers that differ in phi alone are subclasses.
"""

import flax.linen as nn
import jax.numpy as jnp

from jaxseq import layers, ops
from jaxseq.layers import feature_maps
from jaxseq.modules.mixer import Mixer

__all__ = ["LinearTransformer"]


class LinearTransformer(Mixer):
  """Attention whose weights are products of features of queries and keys.

  Attributes:
    num_heads: Heads H.
  """

  num_heads: int = 4

  # Not attributes: each paper has its own.
  use_bias = True  # Of the projections.
  least_denominator = 1e-6

  def __post_init__(self):
    super().__post_init__()
    if self.features % self.num_heads:
      raise ValueError(
        f"{type(self).__name__} needs num_heads that divide features = "
        f"{self.features}; got {self.num_heads}"
      )

  @property
  def key_size(self) -> int:
    return self.features // self.num_heads

  @property
  def value_size(self) -> int:
    return self.features // self.num_heads

  @property
  def num_features(self) -> int:
    """Features F of a query or key."""
    return self.key_size

  def feature_map(self, q, k):
    """phi of all queries and of all keys, [B, T, H, K] -> [B, T, H, F]."""
    return feature_maps.elu_plus_one(q), feature_maps.elu_plus_one(k)

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    q, k, v = self._heads(ops.segments.clear_padding(x, segment_ids))
    q, k = self.feature_map(q, k)
    o, state = self._attend(q, k, v, state, segment_ids)
    return self._output(o, x, segment_ids), state

  def _project(self, x, width, name, axes=("embed", "heads")):
    return layers.projection(
      width,
      axes,
      use_bias=self.use_bias,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name=name,
    )(x)

  def _heads(self, x):
    """Queries, keys and values."""

    def heads(name, size):
      y = self._project(x, self.num_heads * size, name)
      return y.reshape(*x.shape[:2], self.num_heads, size)

    K, V = self.key_size, self.value_size
    return heads("q", K), heads("k", K), heads("v", V)

  def _attend(self, q, k, v, state, segment_ids, **options):
    return ops.normalized_linear_attention(
      q,
      k,
      v,
      initial_state=state,
      segment_ids=segment_ids,
      scale=1.0,
      epsilon=self.least_denominator,
      implementation=self.implementation,
      **options,
    )

  def _output(self, o, x, segment_ids):
    y = self._project(
      o.reshape(*x.shape[:2], -1), self.features, "out", ("heads", "embed")
    )
    return ops.segments.clear_padding(y.astype(x.dtype), segment_ids)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> ops.LinearAttentionState:
    shape = (batch_size, self.num_heads, self.num_features)
    return ops.LinearAttentionState(
      jnp.zeros((*shape, self.value_size)), jnp.zeros(shape)
    )
