"""Token-wise parts."""

from jaxseq.layers import feature_maps
from jaxseq.layers.cross_entropy import cross_entropy
from jaxseq.layers.mlp import SwiGLU
from jaxseq.layers.norm import HeadNorm, RMSNorm, l2_normalize
from jaxseq.layers.projection import projection

__all__ = [
  "HeadNorm",
  "RMSNorm",
  "SwiGLU",
  "cross_entropy",
  "feature_maps",
  "l2_normalize",
  "projection",
]
