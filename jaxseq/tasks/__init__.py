"""Synthetic tasks: pure functions from random keys to batches."""

from jaxseq.tasks.parity import ParityConfig
from jaxseq.tasks.recall import RecallConfig

__all__ = ["ParityConfig", "RecallConfig"]
