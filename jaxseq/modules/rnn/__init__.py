"""Recurrent networks whose gates see their state."""

from jaxseq.modules.mixer import Entry, Paper
from jaxseq.modules.rnn.elman import Elman
from jaxseq.modules.rnn.gru import GRU
from jaxseq.modules.rnn.ind_rnn import IndRNN
from jaxseq.modules.rnn.lstm import LSTM
from jaxseq.modules.rnn.slstm import CONV_SIZE as SLSTM_CONV_SIZE
from jaxseq.modules.rnn.slstm import SLSTM

__all__ = ["Elman", "GRU", "IndRNN", "LSTM", "MIXERS", "SLSTM"]

MIXERS = (
  Entry(
    name="lstm",
    cls=LSTM,
    paper=Paper("Long Short-Term Memory", 1997, None),
    op="lstm",
    state="constant",
    state_size=lambda m: 2 * m.features,
    rows=("S053",),
  ),
  Entry(
    name="elman",
    cls=Elman,
    paper=Paper("Finding Structure in Time", 1990, None),
    op="elman",
    state="constant",
    state_size=lambda m: m.features,
    rows=("S053",),
  ),
  Entry(
    name="gru",
    cls=GRU,
    paper=Paper(
      "Learning Phrase Representations using RNN Encoder-Decoder for Statistical "
      "Machine Translation",
      2014,
      "1406.1078",
    ),
    op="gru",
    state="constant",
    state_size=lambda m: m.features,
    rows=("S053",),
  ),
  Entry(
    name="slstm",
    cls=SLSTM,
    paper=Paper("xLSTM: Extended Long Short-Term Memory", 2024, "2405.04517"),
    op="slstm",
    state="constant",
    state_size=lambda m: (4 + SLSTM_CONV_SIZE - 1) * m.features,
    rows=("S053",),
  ),
  Entry(
    name="ind_rnn",
    cls=IndRNN,
    paper=Paper(
      "Independently Recurrent Neural Network (IndRNN): Building A Longer and Deeper "
      "RNN",
      2018,
      "1803.04831",
    ),
    op="elman",
    state="constant",
    state_size=lambda m: m.features,
  ),
)
