"""Position encodings."""

from jaxseq.positions.linear_relative import linear_relative
from jaxseq.positions.rotary import rotary

__all__ = ["linear_relative", "rotary"]
