"""Packing of documents that are too many to measure beforehand.

Row r of all batches together is a lane: the documents r, r + B, r + 2 B, ... of an
endless order, end to end, cut every T tokens as in `packing`. So a batch depends on
nothing but the order, B, T and its number; a process reads only its own lanes; and no
token is padding. What comes before a row in its lane need not be known to start, but to
resume: a state says where its lanes stood, and other lanes are read over again.
"""

from concurrent import futures

import grain
import numpy as np

from jaxseq.data import packing

__all__ = ["Lanes"]


class Lanes(grain.IterDataset):
  """Some lanes of a batch, as an endless data set of [number of lanes, T] arrays."""

  def __init__(
    self,
    documents: grain.MapDataset,
    batch_size: int,
    length: int,
    bos: int,
    rows: range,
  ):
    """
    Args:
      documents: Endless, arrays of ids; not all of them empty.
      batch_size: B, the number of all lanes.
      length: T.
      bos: The id that stands before the first token of a document.
      rows: Which lanes.
    """
    super().__init__()
    self.documents, self.batch_size, self.rows = documents, batch_size, rows
    self.length, self.bos = length, bos

  def __iter__(self) -> grain.DatasetIterator:
    return _Iterator(self)


class _Iterator(grain.DatasetIterator):
  """Reads the batch after the one it gives in a thread, which Python joins at exit."""

  def __init__(self, dataset: Lanes):
    super().__init__()
    self._dataset = dataset
    self._executor = futures.ThreadPoolExecutor(max_workers=1)
    self._restart()

  def __next__(self) -> dict[str, np.ndarray]:
    batch, self._state = (self._ahead or self._executor.submit(self._read)).result()
    self._ahead = self._executor.submit(self._read)
    return batch

  def get_state(self) -> dict:
    return self._state

  def set_state(self, state: dict) -> None:
    if self._ahead:
      futures.wait([self._ahead])
    self._restart()
    if state["rows"] == self._state["rows"]:
      for lane, *place in zip(self._lanes, state["documents"], state["offsets"]):
        lane.number, lane.offset = place
    else:  # Saved by another process: how long our documents are is not in it.
      for lane in self._lanes:
        for _ in range(state["step"]):
          lane.take(self._dataset.length)
    self._step = state["step"]
    self._state = self._position()

  def _restart(self) -> None:
    d = self._dataset
    self._lanes = [_Lane(d.documents[r :: d.batch_size]) for r in d.rows]
    self._step, self._ahead = 0, None
    self._state = self._position()

  def _read(self) -> tuple[dict[str, np.ndarray], dict]:
    length, bos = self._dataset.length, self._dataset.bos
    rows = [packing.row(lane.take(length), length, bos) for lane in self._lanes]
    self._step += 1
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return batch, self._position()

  def _position(self) -> dict:
    rows = self._dataset.rows
    return dict(
      step=self._step,
      rows=[rows.start, rows.stop],
      documents=[lane.number for lane in self._lanes],
      offsets=[lane.offset for lane in self._lanes],
    )


class _Lane:
  """Where a lane stands: the number of a document in it, and the tokens used of it."""

  def __init__(self, documents: grain.MapDataset):
    self._documents, self._number_read = documents, None
    self.number, self.offset = 0, 0

  def take(self, length: int) -> list[packing.Piece]:
    """The next so many tokens."""
    pieces = []
    while length:
      document = self._document()
      stop = min(self.offset + length, len(document))
      if stop > self.offset:
        pieces.append((document, self.offset, stop))
      length -= stop - self.offset
      self.offset = stop
      if stop == len(document):
        self.number, self.offset = self.number + 1, 0
    return pieces

  def _document(self) -> np.ndarray:
    if self._number_read != self.number:  # A long one is read once, not once a row.
      self._read = self._documents[self.number]
      self._number_read = self.number
    return self._read
