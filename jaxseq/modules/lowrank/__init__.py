"""Attention matrices of low rank, by features, hashes and flows."""

from jaxseq.modules.mixer import Entry, Paper

__all__ = ["MIXERS"]

MIXERS: tuple[Entry, ...] = ()
