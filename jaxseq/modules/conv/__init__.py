"""Convolutions over many tokens, with and without gates."""

from jaxseq.modules.conv.hyena import CONV_SIZE, Hyena
from jaxseq.modules.mixer import Entry, Paper

__all__ = ["MIXERS", "Hyena"]


def _hyena_size(m: Hyena) -> int:
  window = (m.max_length - 1) * (m.order - 1)
  return (window + (CONV_SIZE - 1) * (m.order + 1)) * m.features


MIXERS = (
  Entry(
    name="hyena",
    cls=Hyena,
    paper=Paper(
      "Hyena Hierarchy: Towards Larger Convolutional Language Models",
      2023,
      "2302.10866",
    ),
    op="fft_conv",
    state="window",
    state_size=_hyena_size,
    rows=("S113",),
  ),
)
