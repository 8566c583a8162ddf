"""Mixers by name.

    registry.mixer("gated_delta_net")(features=256, num_heads=4)

Each family of `jaxseq.modules` lists its mixers, a class and its paper each; this joins
the lists. Nothing registers itself by being imported.
"""

import difflib
import importlib

from jaxseq.modules.mixer import Entry, Mixer

__all__ = ["FAMILIES", "MIXERS", "entry", "mixer"]

FAMILIES = ("softmax", "lowrank", "linear", "delta", "ssm", "conv", "rnn", "grid")


MIXERS: dict[str, Entry] = {
  e.name: e
  for family in FAMILIES
  for e in importlib.import_module(f"jaxseq.modules.{family}").MIXERS
}


def entry(name: str) -> Entry:
  """The entry of that name.

  Raises:
    ValueError: If there is none; names the nearest.
  """
  if name in MIXERS:
    return MIXERS[name]
  near = difflib.get_close_matches(name, MIXERS, n=3, cutoff=0.4)
  hint = f"did you mean {' or '.join(near)}?" if near else f"there are {list(MIXERS)}"
  raise ValueError(f"no mixer is called {name!r}; {hint}")


def mixer(name: str) -> type[Mixer]:
  """The class of that name, to be called with `features` and its own attributes."""
  return entry(name).cls
