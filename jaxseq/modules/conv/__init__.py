"""Convolutions over many tokens, with and without gates."""

__all__ = ["MIXERS"]

MIXERS = ()
