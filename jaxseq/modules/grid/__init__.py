"""Mixers of tokens that stand on a grid: images and volumes."""

from jaxseq.modules.mixer import Entry, Paper

__all__ = ["MIXERS"]

MIXERS: tuple[Entry, ...] = ()
