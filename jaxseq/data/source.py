"""What a source of batches promises, and how rows become batches.

A batch is a dict of numpy arrays, the rows of one process:

    inputs       [B, T] int32 ids, or [B, T, F] float32
    targets      [B, T] int32 ids, [B] int32 classes, or [B, T, O] float32
    weights      float32, one for each id, class or token; 0 leaves it out of the loss
    segment_ids  [B, T] int32; see `ops.segments`
    optimum      what the best predictor answers, where a task knows; see `tasks.task`

The global batch of step i is a function of the seed and i alone. Process p of P holds
its rows p B / P to (p + 1) B / P, so any number of processes trains on the same batches
in the same order, and the state of an iterator is valid on any other number.
"""

import abc
from collections.abc import Callable, Iterable

import grain
import numpy as np

__all__ = [
  "Source",
  "classification_row",
  "endless",
  "in_order",
  "rows_per_process",
  "scattered",
  "shuffled",
]

# Rows are cut from memory: one thread keeps ahead, more would fight for Python's lock.
READ = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)

# Grain's own endless length is the largest integer, and overflows when it is divided.
ENDLESS = 1 << 50


class Source(abc.ABC):
  """A data set, or an endless task.

  Attributes:
    vocab_size: Number of token ids; None if the inputs are real numbers.
    num_inputs: F, where the inputs are real numbers; else None.
    num_outputs: Number of classes, or O, of numbers; None for a language model.
  """

  vocab_size: int | None = None
  num_inputs: int | None = None
  num_outputs: int | None = None

  @abc.abstractmethod
  def train(
    self,
    batch_size: int,
    sequence_length: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
  ) -> grain.DatasetIterator:
    """The endless training batches.

    Args:
      batch_size: Rows of the global batch.
      sequence_length: T, in tokens.
      seed: Of the order, or of what is generated.
      process_index: Which part of each global batch this is.
      process_count: Number of equal parts.

    Returns:
      An iterator whose `get_state()`, a dict that JSON can hold, says after which batch
      `set_state` makes it go on.

    Raises:
      ValueError: If the sizes do not fit the source or each other.
    """

  @abc.abstractmethod
  def evaluation(
    self,
    batch_size: int,
    sequence_length: int,
    process_index: int = 0,
    process_count: int = 1,
  ) -> Iterable[dict[str, np.ndarray]]:
    """The held-out batches, finite, always the same, as many on every process.

    The last one is filled up with rows of weight 0.
    """


def rows_per_process(batch_size: int, process_index: int, process_count: int) -> int:
  """B / P.

  Raises:
    ValueError: If P does not divide B or there is no such process.
  """
  if not 0 <= process_index < process_count:
    raise ValueError(
      f"process_index must be in [0, process_count); "
      f"got {process_index} of {process_count}"
    )
  if batch_size < 1 or batch_size % process_count:
    raise ValueError(
      f"batch_size must be a multiple of the {process_count} processes; "
      f"got {batch_size}"
    )
  return batch_size // process_count


def scattered(seed: int) -> np.uint32:
  """A number far from those of the neighbouring seeds.

  Raises:
    ValueError: If the seed is negative.
  """
  if seed < 0:
    raise ValueError(f"seed must be at least 0; got {seed}")
  return np.random.SeedSequence(seed).generate_state(1)[0]


def endless(elements: grain.MapDataset, seed: int) -> grain.MapDataset:
  """Every element once an epoch, in an order drawn from the seed for each epoch.

  Raises:
    ValueError: If there are no elements, or the seed is negative.
  """
  if not len(elements):
    raise ValueError("training needs data; the training split is empty")
  # Neighbouring seeds must share no epoch, and grain counts epochs up from the seed.
  return elements.shuffle(seed=int(scattered(seed))).repeat()[:ENDLESS]


def shuffled(
  rows: grain.MapDataset,
  batch_size: int,
  seed: int,
  process_index: int,
  process_count: int,
  change: Callable[[dict, np.random.Generator], dict] | None = None,
) -> grain.DatasetIterator:
  """Rows in `endless` order. A batch may hold some of two epochs: none is dropped.

  Args:
    rows: Of one epoch.
    batch_size: Rows of the global batch.
    seed: Of the order, and of the changes.
    process_index: Which part of each global batch this is.
    process_count: Number of equal parts.
    change: Makes a row into another, at random, each time that it is seen.
  """
  count = rows_per_process(batch_size, process_index, process_count)
  elements = endless(rows, seed)
  if change is not None:
    elements = elements.random_map(change, seed=int(scattered(seed)))
  batches = elements.batch(count)
  return iter(batches[process_index::process_count].to_iter_dataset(READ))


def in_order(
  rows: grain.MapDataset, batch_size: int, process_index: int, process_count: int
) -> grain.IterDataset:
  """Every row once, the last batch filled up with the first rows at weight 0.

  Raises:
    ValueError: If there are no rows.
  """
  count = rows_per_process(batch_size, process_index, process_count)
  if not len(rows):
    raise ValueError("evaluation needs data; the held-out split is empty")
  total = -(-len(rows) // batch_size) * batch_size

  def weigh(index, row):
    filler = index >= len(rows)
    return row | {"weights": np.zeros_like(row["weights"])} if filler else row

  batches = rows.repeat()[:total].map_with_index(weigh).batch(count)
  return batches[process_index::process_count].to_iter_dataset(READ)


def classification_row(inputs: np.ndarray, label: int) -> dict[str, np.ndarray]:
  """One sequence [T, F] with its class."""
  return dict(
    inputs=inputs.astype(np.float32),
    targets=np.int32(label),
    weights=np.float32(1),
    segment_ids=np.ones(len(inputs), np.int32),
  )
