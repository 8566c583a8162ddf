"""Position encodings."""

from jaxseq.positions.rotary import rotary

__all__ = ["rotary"]
