"""The linear attention of Based (Arora et al. 2024, arXiv:2402.18668, sec. 4.1).

o_t = sum_j (1 + s_tj + s_tj^2 / 2) v_j / sum_j (1 + s_tj + s_tj^2 / 2),   j <= t
s_tj = q_t^T k_j / sqrt(K)

The weights are exp(s) to second order, never below 1/2. Based models alternate this
layer with sliding windows: in a stack, two names of its pattern.
"""

from jaxseq.layers import feature_maps
from jaxseq.modules.linear.linear_transformer import LinearTransformer

__all__ = ["Based"]


class Based(LinearTransformer):
  """Attention by the Taylor features of the exponential.

  Attributes:
    feature_size: Width K of a query or key, which has about K^2 / 2 features.
  """

  feature_size: int = 16

  use_bias = False

  @property
  def key_size(self) -> int:
    return self.feature_size

  @property
  def num_features(self) -> int:
    K = self.key_size
    return 1 + K + K * (K + 1) // 2

  def feature_map(self, q, k):
    return feature_maps.taylor(q), feature_maps.taylor(k)
