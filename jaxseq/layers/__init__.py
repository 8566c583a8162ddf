"""Token-wise parts."""

from jaxseq.layers.norm import RMSNorm, l2_normalize
from jaxseq.layers.projection import projection

__all__ = ["RMSNorm", "l2_normalize", "projection"]
