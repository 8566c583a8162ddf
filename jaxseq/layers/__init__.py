"""Token-wise parts."""

from jaxseq.layers.cross_entropy import cross_entropy
from jaxseq.layers.mlp import SwiGLU
from jaxseq.layers.norm import RMSNorm, l2_normalize
from jaxseq.layers.projection import projection

__all__ = ["RMSNorm", "SwiGLU", "cross_entropy", "l2_normalize", "projection"]
