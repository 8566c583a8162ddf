"""The delta rule, with or without a decay a head and token, for Hopper GPUs."""

from jaxseq_kernels.gated_delta_rule.dispatch import fused, refusal

__all__ = ["fused", "refusal"]
