"""Linear attention with a decay for each key channel, for Hopper GPUs."""

from jaxseq_kernels.diagonal_decay.dispatch import fused, refusal

__all__ = ["fused", "refusal"]
