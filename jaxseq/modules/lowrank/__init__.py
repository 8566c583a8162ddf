"""Attention matrices of low rank, by features, hashes and flows."""

from jaxseq.modules.lowrank.fastformer import CausalFastformer, Fastformer
from jaxseq.modules.mixer import Entry, Paper

__all__ = ["MIXERS", "CausalFastformer", "Fastformer"]

MIXERS = (
  Entry(
    name="fastformer",
    cls=Fastformer,
    paper=Paper(
      "Fastformer: Additive Attention Can Be All You Need", 2021, "2108.09084"
    ),
    op="diagonal_recurrence",
    state="none",
    state_size=lambda m: 0,
    causal=False,
    rows=("S275",),
  ),
  Entry(
    name="fastformer_causal",
    cls=CausalFastformer,
    paper=Paper(
      "Fastformer: Additive Attention Can Be All You Need", 2021, "2108.09084"
    ),
    op="diagonal_recurrence",
    state="constant",
    state_size=lambda m: 2 * (m.features + m.num_heads),
  ),
)
