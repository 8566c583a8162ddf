"""Recurrent networks whose gates see their state."""

from jaxseq.modules.mixer import Entry, Paper
from jaxseq.modules.rnn.lstm import LSTM

__all__ = ["LSTM", "MIXERS"]

MIXERS = (
  Entry(
    name="lstm",
    cls=LSTM,
    paper=Paper("Long Short-Term Memory", 1997, None),
    op="lstm",
    state="constant",
    state_size=lambda m: 2 * m.features,
  ),
)
