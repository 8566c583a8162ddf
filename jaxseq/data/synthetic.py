"""Tasks whose batches are generated on the device, as sources."""

import functools
import sys
from collections.abc import Callable
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np

from jaxseq.data import source

__all__ = ["Synthetic"]

# Generating is a call to the device: the batch after this one is made ahead.
READ = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)

TRAIN, EVALUATION = 0, 1  # Streams of keys that never meet.


class Synthetic(source.Source):
  """An endless task of `jaxseq.tasks`.

  Row r of the training batch of step i comes from the key fold(fold(fold(key(seed), 0),
  i), r), and the held-out rows, always the same, from fold(fold(key(0), 1), 0).
  """

  def __init__(self, config: Any, batch: Callable[..., dict]):
    """
    Args:
      config: Of the task, with a `vocab_size` and a number of `held_out_examples`.
      batch: Called with keys [B], `config` and a length, gives a batch.
    """
    self.config, self.vocab_size = config, config.vocab_size
    self._batch = jax.jit(batch, static_argnums=(1, 2))

  def train(self, batch_size, sequence_length, seed, process_index=0, process_count=1):
    count = source.rows_per_process(batch_size, process_index, process_count)
    rows = np.arange(process_index * count, (process_index + 1) * count)
    self._check(sequence_length)
    generate = functools.partial(self._generate, seed, TRAIN, rows, sequence_length)
    return iter(grain.MapDataset.range(sys.maxsize).map(generate).to_iter_dataset(READ))

  def evaluation(self, batch_size, sequence_length, process_index=0, process_count=1):
    count = source.rows_per_process(batch_size, process_index, process_count)
    total = self.config.held_out_examples
    self._check(sequence_length)

    def generate(step):
      rows = step * batch_size + process_index * count + np.arange(count)
      batch = self._generate(0, EVALUATION, rows, sequence_length, 0)
      real = (rows < total)[:, None]
      return batch | {"weights": np.where(real, batch["weights"], np.float32(0))}

    steps = grain.MapDataset.range(-(-total // batch_size))
    return steps.map(generate).to_iter_dataset(READ)

  def _check(self, length: int) -> None:
    """Lets the task refuse the length now and not at the first batch."""
    keys = jax.eval_shape(jax.random.split, jax.random.key(0))
    jax.eval_shape(self._batch, keys, self.config, length)

  def _generate(self, seed, stream, rows, length, step) -> dict[str, np.ndarray]:
    # On one device of this process. On the caller's mesh, which jit would use, it would
    # be one computation of all processes, and each has other rows.
    with jax.set_mesh(_own_mesh()):
      key = jax.random.fold_in(jax.random.key(seed), stream)
      key = jax.random.fold_in(key, step)
      keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(rows))
      return jax.device_get(self._batch(keys, self.config, length))


def _own_mesh() -> jax.sharding.Mesh:
  auto = (jax.sharding.AxisType.Auto,)
  return jax.make_mesh((1,), ("own",), auto, devices=jax.local_devices()[:1])
