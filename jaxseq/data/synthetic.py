"""Tasks whose batches are generated on the device, as sources."""

import sys
from collections.abc import Callable
from typing import Any

import grain
import jax
import numpy as np

from jaxseq import tasks
from jaxseq.data import source

__all__ = ["Synthetic"]

# Generating is a call to the device: the batch after this one is made ahead.
READ = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)

TRAIN, EVALUATION = 0, 1  # Streams of keys that never meet.


class Synthetic(source.Source):
  """An endless task of `jaxseq.tasks`.

  Each row has a random key of its own: the seed's, into which are folded whether it is
  held out, the step, and its place in the global batch.
  """

  def __init__(self, config: Any, batch: Callable[..., dict]):
    """
    Args:
      config: Of the task, with a number of `held_out_examples` and a `vocab_size`, or
        else `num_inputs` and `num_outputs`; see `Source`.
      batch: Called with keys [B], `config` and a length, gives a batch.
    """
    self.config = config
    for name in ("vocab_size", "num_inputs", "num_outputs"):
      setattr(self, name, getattr(config, name, None))

    held_out = tasks.held_out(config)
    self._is_split = held_out != config  # Else training and evaluation share a program.

    def generate(split, seed, stream, step, rows, length):
      key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stream), step)
      keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
      return batch(keys, held_out if split else config, length)

    self._generate = jax.jit(generate, static_argnums=(0, 5))

  def train(self, batch_size, sequence_length, seed, process_index=0, process_count=1):
    count = source.rows_per_process(batch_size, process_index, process_count)
    rows = np.arange(process_index * count, (process_index + 1) * count)
    self._check(sequence_length)
    seed = source.scattered(seed)
    generate = lambda step: self._rows(seed, TRAIN, step, rows, sequence_length)
    return iter(grain.MapDataset.range(sys.maxsize).map(generate).to_iter_dataset(READ))

  def evaluation(self, batch_size, sequence_length, process_index=0, process_count=1):
    count = source.rows_per_process(batch_size, process_index, process_count)
    total = self.config.held_out_examples
    self._check(sequence_length)

    def generate(step):
      rows = step * batch_size + process_index * count + np.arange(count)
      batch = self._rows(0, EVALUATION, 0, rows, sequence_length)
      weights = batch["weights"].copy()
      weights[rows >= total] = 0
      return batch | {"weights": weights}

    steps = grain.MapDataset.range(-(-total // batch_size))
    return steps.map(generate).to_iter_dataset(READ)

  def _check(self, length: int) -> None:
    """Lets the task refuse the length now and not at the first batch."""
    jax.eval_shape(
      lambda rows: self._generate(False, 0, 0, 0, rows, length), np.arange(1)
    )

  def _rows(self, seed, stream, step, rows, length) -> dict[str, np.ndarray]:
    split = self._is_split and stream == EVALUATION
    # On one device of this process. On the caller's mesh, which jit would use, it would
    # be one computation of all processes, and each has other rows.
    auto = (jax.sharding.AxisType.Auto,)
    own = jax.make_mesh((1,), ("own",), auto, devices=jax.local_devices()[:1])
    with jax.set_mesh(own):
      args = seed, stream, step, rows, length
      return jax.device_get(self._generate(split, *args))
