"""The delta rule with a decay for each key channel, by `dplr`'s kernels."""

from jaxseq_kernels.channel_delta_rule.dispatch import fused, refusal

__all__ = ["fused", "refusal"]
