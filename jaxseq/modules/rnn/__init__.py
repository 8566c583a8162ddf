"""Recurrent networks: gates that see their state, or the input alone."""

from jaxseq.modules.mixer import Entry, Paper
from jaxseq.modules.rnn.elman import Elman
from jaxseq.modules.rnn.gru import GRU
from jaxseq.modules.rnn.hgrn import HGRN
from jaxseq.modules.rnn.ind_rnn import IndRNN
from jaxseq.modules.rnn.lstm import LSTM
from jaxseq.modules.rnn.min_gru import MinGRU, MinLSTM
from jaxseq.modules.rnn.qrnn import QRNN
from jaxseq.modules.rnn.recurrent_lmu import RecurrentLMU
from jaxseq.modules.rnn.rwkv4 import RWKV4, RWKV4ChannelMix
from jaxseq.modules.rnn.slstm import CONV_SIZE as SLSTM_CONV_SIZE
from jaxseq.modules.rnn.slstm import SLSTM
from jaxseq.modules.rnn.spike_gpt import SpikeGPT, SpikeGPTChannelMix
from jaxseq.modules.rnn.sru import SRU, LinearSRU

__all__ = [
  "Elman",
  "GRU",
  "HGRN",
  "IndRNN",
  "LSTM",
  "LinearSRU",
  "MIXERS",
  "MinGRU",
  "MinLSTM",
  "QRNN",
  "RWKV4",
  "RWKV4ChannelMix",
  "RecurrentLMU",
  "SLSTM",
  "SRU",
  "SpikeGPT",
  "SpikeGPTChannelMix",
]


MIN_GRU = Paper("Were RNNs All We Needed?", 2024, "2410.01201")


SRU_PAPER = Paper(
  "Simple Recurrent Units for Highly Parallelizable Recurrence", 2017, "1709.02755"
)


RWKV4_PAPER = Paper(
  "RWKV: Reinventing RNNs for the Transformer Era", 2023, "2305.13048"
)


SPIKE_GPT = Paper(
  "SpikeGPT: Generative Pre-trained Language Model with Spiking Neural Networks",
  2023,
  "2302.13939",
)


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
    name="min_gru",
    cls=MinGRU,
    paper=MIN_GRU,
    op="diagonal_recurrence",
    state="constant",
    state_size=lambda m: m.width,
  ),
  Entry(
    name="min_lstm",
    cls=MinLSTM,
    paper=MIN_GRU,
    op="diagonal_recurrence",
    state="constant",
    state_size=lambda m: m.width,
  ),
  Entry(
    name="qrnn",
    cls=QRNN,
    paper=Paper("Quasi-Recurrent Neural Networks", 2016, "1611.01576"),
    op="diagonal_recurrence",
    state="constant",
    state_size=lambda m: m.window * m.features,
    rows=("S216",),
  ),
  Entry(
    name="sru",
    cls=SRU,
    paper=SRU_PAPER,
    op="sru",
    state="constant",
    state_size=lambda m: m.features,
  ),
  Entry(
    name="linear_sru",
    cls=LinearSRU,
    paper=SRU_PAPER,
    op="diagonal_recurrence",
    state="constant",
    state_size=lambda m: m.features,
  ),
  Entry(
    name="hgrn",
    cls=HGRN,
    paper=Paper(
      "Hierarchically Gated Recurrent Neural Network for Sequence Modeling",
      2023,
      "2311.04823",
    ),
    op="diagonal_recurrence",
    state="constant",
    state_size=lambda m: m.features,
    rows=("S250",),
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
  Entry(
    name="rwkv4",
    cls=RWKV4,
    paper=RWKV4_PAPER,
    op="wkv",
    state="constant",
    state_size=lambda m: 4 * m.features,
    rows=("S308",),
  ),
  Entry(
    name="rwkv4_channel_mix",
    cls=RWKV4ChannelMix,
    paper=RWKV4_PAPER,
    op="short_conv",
    state="window",
    state_size=lambda m: m.features,
    rows=("S308",),
  ),
  Entry(
    name="spike_gpt",
    cls=SpikeGPT,
    paper=SPIKE_GPT,
    op="wkv",
    state="constant",
    state_size=lambda m: 5 * m.features,
    rows=("S396",),
  ),
  Entry(
    name="spike_gpt_channel_mix",
    cls=SpikeGPTChannelMix,
    paper=SPIKE_GPT,
    op="short_conv",
    state="constant",
    state_size=lambda m: 2 * m.features,
    rows=("S396",),
  ),
  Entry(
    name="recurrent_lmu",
    cls=RecurrentLMU,
    paper=Paper(
      "Legendre Memory Units: Continuous-Time Representation in Recurrent Neural "
      "Networks",
      2019,
      None,
    ),
    op="lmu",
    state="constant",
    state_size=lambda m: m.features + m.memory_size,
    rows=("S007",),
  ),
)
