"""One token of the recurrences with a matrix state, for Hopper GPUs."""

from jaxseq_kernels.matrix_step.dispatch import fused, refusal

__all__ = ["fused", "refusal"]
