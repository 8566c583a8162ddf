"""The short causal depthwise convolution."""

from jaxseq_kernels.short_conv.dispatch import fused, refusal

__all__ = ["fused", "refusal"]
