"""Checkpoints by orbax: asynchronous, checked when they are read.

A checkpoint holds the train state, the state of the data, and checksums: of each array
the sum of its bits modulo 2^32, made on the devices when it is saved, and a CRC of the
data's state. A checkpoint that cannot be read, or has other sums, is damaged, and the
one before it is used.

Reading changes nothing, so a run may be read while it goes on. The first save clears
away what a killed save left, and renames what is damaged; that is never deleted.
"""

import json
import os
import pathlib
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils

from jaxseq.training.state import TrainState

__all__ = ["Checkpointer", "DamagedError", "check_config"]


class DamagedError(Exception):
  """There are checkpoints, and none can be read."""


class Checkpointer:
  """The checkpoints of one run.

  Attributes:
    directory: Where they are, a folder for each step.
    damaged: Steps that the last `restore` could not use.
  """

  def __init__(self, directory: str | os.PathLike, *, max_to_keep: int = 3):
    """
    Args:
      directory: Made if it is not there.
      max_to_keep: Newest checkpoints kept, at least 2: the newest may be damaged.

    Raises:
      ValueError: If `max_to_keep` is less than 2.
    """
    if max_to_keep < 2:
      raise ValueError(f"Checkpointer needs max_to_keep >= 2; got {max_to_keep}")
    self.directory = pathlib.Path(directory).absolute()
    self.damaged: list[int] = []
    self._max_to_keep = max_to_keep
    self._writes = False
    self._manager = self._open()

  def _open(self, **options):
    return ocp.CheckpointManager(
      self.directory,
      item_names=("state", "meta"),
      options=ocp.CheckpointManagerOptions(**options),
    )

  def steps(self) -> list[int]:
    """Of the checkpoints, the oldest first."""
    return sorted(self._manager.all_steps())

  def save(self, step: int, state: TrainState, data_state: dict) -> None:
    """Saves in the background; returns when the arrays may change.

    A step that is there already is left as it is.

    Args:
      step: Its number.
      state: The train state.
      data_state: Of the data iterator; JSON can hold it.

    Raises:
      ValueError: If there is a later step: orbax would save nothing.
    """
    self._claim()
    steps = self.steps()
    if step in steps:
      return
    if steps and step < steps[-1]:
      raise ValueError(f"save needs a step after {steps[-1]}; got {step}")
    arrays = _as_arrays(state)
    sums = [int(x) for x in jax.tree.leaves(_checksums(arrays))]
    data = json.dumps(data_state)
    meta = {"data": data, "data_checksum": _crc(data), "checksums": sums}
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave(meta)
      ),
    )

  def restore(self, shapes: TrainState) -> tuple[int, TrainState, dict] | None:
    """The newest good checkpoint.

    Args:
      shapes: Shapes, dtypes and places (`jax.ShapeDtypeStruct`) of the state; the mesh
        may be another one than it was saved on.

    Returns:
      Its step, the train state, and the state of the data; or None if there is none.

    Raises:
      DamagedError: If there are checkpoints and none can be read into `shapes`. They
        stay as they are, so that a run started again does not begin from nothing.
    """
    self.damaged, reasons = [], []
    for step in reversed(self.steps()):
      restored, reason = self._read(step, shapes)
      if restored is not None:
        if self.damaged:  # Said last, after what orbax prints of each failed read.
          logging.error("checkpoint %d is used instead of %s", step, self.damaged)
        return step, *restored
      logging.error("checkpoint %d is damaged, or of another model: %s", step, reason)
      self.damaged.append(step)
      reasons.append(reason)
    if reasons:
      raise DamagedError(
        f"all checkpoints in {self.directory} are damaged, or of another model: "
        f"{self.damaged}; the newest because: {reasons[0]}"
      )
    return None

  def _read(self, step, shapes):
    """State and the data's state, or None and the reason, alike on all processes."""
    folder = self._manager.directory / str(step)
    reason = None
    try:
      # The handlers themselves: the manager waits in a barrier for a process that has
      # found damage in its part, and never comes.
      meta = ocp.JsonCheckpointHandler().restore(folder / "meta")
      state = ocp.StandardCheckpointHandler().restore(
        folder / "state", args=ocp.args.StandardRestore(_as_arrays(shapes))
      )
      if _crc(meta["data"]) != meta["data_checksum"]:
        reason = "the state of the data is not what was saved"
    except Exception as error:  # Whatever damage makes orbax raise.
      reason = " ".join(str(error).split())[:300]
    # All sum up together, or none does: the sums are of arrays on all of them.
    if not _everywhere(reason is None):
      return None, reason or "another process could not read it"
    sums = [int(x) for x in jax.tree.leaves(_checksums(state))]
    if sums != meta["checksums"]:
      return None, "the sums of its arrays are not those that were saved"
    key = jax.random.wrap_key_data(state.key)
    return (state.replace(key=key), json.loads(meta["data"])), None

  def _claim(self):
    """Before a save: clears away what a killed one left, renames what is damaged."""
    if self._writes and not self.damaged:
      return
    self._manager.close()
    if jax.process_index() == 0:
      for step in self.damaged:
        folder = self.directory / str(step)
        folder.rename(self.directory / f"damaged_{step}_{os.getpid()}")
    multihost_utils.sync_global_devices("damaged checkpoints are renamed")
    self.damaged, self._writes = [], True
    self._manager = self._open(
      max_to_keep=self._max_to_keep, cleanup_tmp_directories=True
    )

  def wait(self) -> None:
    """Until what is being saved is safe."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, and ends the threads."""
    self._manager.close()


def _crc(text: str) -> int:
  return zlib.crc32(text.encode())


def _everywhere(holds: bool) -> bool:
  """Whether it holds on every process."""
  return bool(np.all(multihost_utils.process_allgather(np.asarray(holds))))


def _as_arrays(state: TrainState) -> TrainState:
  """The state with its random key as plain numbers."""
  if not isinstance(state.key, jax.ShapeDtypeStruct):
    return state.replace(key=jax.random.key_data(state.key))
  data = jax.eval_shape(jax.random.key_data, state.key)
  place = state.key.sharding
  return state.replace(key=jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=place))


@jax.jit
def _checksums(tree):
  """The sum of the bits of each array, as numbers of 32 bits or fewer, modulo 2^32."""

  def one(x):
    if x.dtype == bool:
      return jnp.sum(x, dtype=jnp.uint32)
    width = min(x.dtype.itemsize, 4) * 8
    bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{width}"))
    return jnp.sum(bits, dtype=jnp.uint32)

  return jax.tree.map(one, tree)


def check_config(path: str | os.PathLike, config: dict, free: tuple[str, ...]) -> None:
  """Compares a config with that of an earlier run, or writes it if there is none.

  Args:
    path: The file, JSON.
    config: Nested dicts of what JSON can hold.
    free: Fields of the outermost dict that may differ.

  Raises:
    ValueError: If others differ; names each with both values.
  """
  path = pathlib.Path(path)
  if not path.exists():
    if jax.process_index() == 0:
      path.parent.mkdir(parents=True, exist_ok=True)
      whole = path.with_suffix(".tmp")  # No half-written file under the real name.
      whole.write_text(json.dumps(config, indent=2, sort_keys=True))
      whole.rename(path)
    return
  saved = dict(_flat(json.loads(path.read_text())))
  now = dict(_flat(json.loads(json.dumps(config))))
  differ = [
    f"{name}: {saved.get(name, 'absent')} -> {now.get(name, 'absent')}"
    for name in sorted(saved | now)
    if name.split(".")[0] not in free and saved.get(name) != now.get(name)
  ]
  if differ:
    raise ValueError(
      f"the run in {path.parent} has another config: {'; '.join(differ)}; "
      "choose another folder or the same config"
    )


def _flat(tree: Any, prefix: str = ""):
  for key, value in tree.items():
    if isinstance(value, dict) and value:
      yield from _flat(value, f"{prefix}{key}.")
    else:
      yield f"{prefix}{key}", value
