"""Sources of batches by name.

    source = data.make("bytes", path="corpus/**/*.txt")
    batches = source.train(batch_size=16, sequence_length=256, seed=0)

Batches, and what an iterator over them promises, are described in `data.source`.
"""

import dataclasses
import difflib
import functools
from collections.abc import Callable
from typing import Any

from jaxseq.data import digits, synthetic, text, tfds
from jaxseq.data.compressors import compressed_bits_per_byte
from jaxseq.data.packing import pack
from jaxseq.data.source import Source
from jaxseq.data.text import BOS, decode, encode
from jaxseq.tasks import TASKS

__all__ = [
  "BOS",
  "SOURCES",
  "Source",
  "compressed_bits_per_byte",
  "decode",
  "encode",
  "make",
  "pack",
]

# By name, what describes a source and what makes it from that.
SOURCES: dict[str, tuple[type, Callable[[Any], Source]]] = {
  "bytes": (text.TextConfig, text.Text),
  "tfds": (tfds.TFDSConfig, tfds.make),
  "digits": (digits.DigitsConfig, digits.Digits),
  **{
    name: (task.config, functools.partial(synthetic.Synthetic, batch=task.batch))
    for name, task in TASKS.items()
  },
}


def make(name: str, **fields) -> Source:
  """The source of that name.

  Args:
    name: A key of `SOURCES`.
    **fields: Of its config. Those left out have their defaults.

  Raises:
    ValueError: If there is no such source or field, naming the nearest; if a field has
      a wrong value; or if the data is not there.
  """
  config, source = _known("source", name, SOURCES)
  names = [f.name for f in dataclasses.fields(config)]
  for field in fields:
    _known(f"field of the source {name!r}", field, dict.fromkeys(names))
  return source(config(**fields))


def _known(kind: str, name: str, known: dict[str, Any]) -> Any:
  if name in known:
    return known[name]
  near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
  hint = f"did you mean {' or '.join(near)}?" if near else f"there are {list(known)}"
  raise ValueError(f"no {kind} is called {name!r}; {hint}")
