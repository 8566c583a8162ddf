"""The generalised delta rule, with a decay for each key channel, for Hopper GPUs."""

from jaxseq_kernels.dplr.dispatch import fused, refusal

__all__ = ["fused", "refusal"]
