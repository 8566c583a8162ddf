"""Token-wise parts."""

from jaxseq.layers import feature_maps, linear_init
from jaxseq.layers.cross_entropy import cross_entropy
from jaxseq.layers.depthwise_conv import DepthwiseConv, depthwise_conv
from jaxseq.layers.glu import GLU
from jaxseq.layers.implicit_filter import ImplicitFilter
from jaxseq.layers.mlp import GEGLU, SwiGLU
from jaxseq.layers.norm import HeadNorm, RMSNorm, l2_normalize
from jaxseq.layers.prepbn import PRepBN
from jaxseq.layers.projection import projection

__all__ = [
  "DepthwiseConv",
  "GEGLU",
  "GLU",
  "HeadNorm",
  "ImplicitFilter",
  "PRepBN",
  "RMSNorm",
  "SwiGLU",
  "cross_entropy",
  "depthwise_conv",
  "feature_maps",
  "l2_normalize",
  "linear_init",
  "projection",
]
