"""The diagonal linear recurrence, with real or complex factors."""

from jaxseq_kernels.diagonal_recurrence.dispatch import fused, refusal

__all__ = ["fused", "refusal"]
