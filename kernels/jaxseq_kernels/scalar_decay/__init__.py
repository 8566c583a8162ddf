"""Linear attention with one decay a head and token, for Hopper GPUs."""

from jaxseq_kernels.scalar_decay.dispatch import fused, refusal

__all__ = ["fused", "refusal"]
