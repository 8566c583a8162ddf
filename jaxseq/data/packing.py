"""Documents of any length in rows of one length.

    documents   a b c d e | f g | h i j           rows of T = 4 tokens
    targets     a b c d    e f g h    i j 0 0
    inputs      ^ a b c    d ^ f ^    h i 0 0     ^: the beginning of a document
    segment_ids 1 1 1 1    1 2 2 3    1 1 0 0
    weights     1 1 1 1    1 1 1 1    1 1 0 0

The documents are laid end to end and cut every T tokens. So each token is a target
exactly once, predicted from the token before it or from the mark of the beginning,
never from another document; and nothing is padding but what follows the very last.
"""

from collections.abc import Iterable, Sequence

import numpy as np

__all__ = ["PackedRows", "Piece", "pack", "row"]

Piece = tuple[np.ndarray, int, int]  # A document, and where in it the piece lies.


def row(pieces: Iterable[Piece], length: int, bos: int) -> dict[str, np.ndarray]:
  """Lays pieces of documents side by side, a segment each.

  Args:
    pieces: Their lengths add up to at most `length`.
    length: T.
    bos: The id that stands before the first token of a document.

  Returns:
    inputs, targets and segment_ids, int32, and weights, float32, all [T].
  """
  ids = {name: np.zeros(length, np.int32) for name in _IDS}
  column = 0
  for segment, (document, start, stop) in enumerate(pieces, start=1):
    place = slice(column, column + stop - start)
    ids["targets"][place] = document[start:stop]
    ids["inputs"][place][1:] = document[start : stop - 1]
    ids["inputs"][column] = document[start - 1] if start else bos
    ids["segment_ids"][place] = segment
    column = place.stop
  return ids | {"weights": (ids["segment_ids"] > 0).astype(np.float32)}


_IDS = ("inputs", "targets", "segment_ids")


class PackedRows(Sequence):
  """The rows of documents, each made when it is asked for."""

  def __init__(self, documents: Sequence[np.ndarray], length: int, bos: int):
    """See `row`. The documents are arrays of ids, [number of tokens]."""
    self._documents = [d for d in documents if len(d)]
    self._length, self._bos = length, bos
    # Where each begins in the stream of all, and the end of the last.
    self._begins = np.cumsum([0, *map(len, self._documents)], dtype=np.int64)

  def __len__(self) -> int:
    return int(-(-self._begins[-1] // self._length))

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    if not 0 <= index < len(self):
      raise IndexError(f"row {index} of {len(self)}")
    return row(self._pieces(index * self._length), self._length, self._bos)

  def _pieces(self, first: int) -> Iterable[Piece]:
    """Cuts of the documents that have tokens in [first, first + T) of the stream."""
    number = np.searchsorted(self._begins, first, side="right") - 1
    stop = min(first + self._length, self._begins[-1])
    while first < stop:
      begin, end = self._begins[number : number + 2]
      yield self._documents[number], first - begin, min(end, stop) - begin
      first, number = end, number + 1


def pack(
  documents: Sequence[np.ndarray], length: int, bos: int
) -> dict[str, np.ndarray]:
  """All rows of `PackedRows` at once, each array [rows, T]."""
  rows = list(PackedRows(documents, length, bos))
  names = (*_IDS, "weights")
  if not rows:
    return {name: np.zeros((0, length), np.int32) for name in names}
  return {name: np.stack([row[name] for row in rows]) for name in names}
