"""Cells over time whose gates see their state: LSTM, sLSTM, GRU."""

from jaxseq_kernels.recurrent_cells.dispatch import fused, refusal

__all__ = ["fused", "refusal"]
