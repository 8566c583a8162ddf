"""The selective scan of Mamba-1."""

from jaxseq_kernels.selective_scan.dispatch import fused, refusal

__all__ = ["fused", "refusal"]
