"""Synthetic tasks: pure functions from random keys to batches."""

from jaxseq.tasks.arrow_pointing import ArrowPointingConfig
from jaxseq.tasks.induction_heads import InductionHeadsConfig
from jaxseq.tasks.moving_digits import MovingDigitsConfig
from jaxseq.tasks.parity import ParityConfig
from jaxseq.tasks.recall import RecallConfig
from jaxseq.tasks.selective_copying import SelectiveCopyingConfig

__all__ = [
  "ArrowPointingConfig",
  "InductionHeadsConfig",
  "MovingDigitsConfig",
  "ParityConfig",
  "RecallConfig",
  "SelectiveCopyingConfig",
]
