"""Synthetic tasks: pure functions from random keys to batches."""

import difflib
import functools

from jaxseq.tasks import (
  arrow_pointing,
  induction_heads,
  listops,
  memory_updating,
  parity,
  pathfinder,
  pixel_digits,
  recall,
  selective_copying,
  working_memory,
)
from jaxseq.tasks.arrow_pointing import ArrowPointingConfig
from jaxseq.tasks.induction_heads import InductionHeadsConfig
from jaxseq.tasks.listops import ListOpsConfig
from jaxseq.tasks.memory_updating import (
  MemoryUpdatingConfig,
  NBackConfig,
  TaskSwitchingConfig,
)
from jaxseq.tasks.moving_digits import MovingDigitsConfig
from jaxseq.tasks.parity import ParityConfig
from jaxseq.tasks.pathfinder import PathfinderConfig
from jaxseq.tasks.pixel_digits import PixelDigitsConfig
from jaxseq.tasks.recall import RecallConfig
from jaxseq.tasks.selective_copying import SelectiveCopyingConfig
from jaxseq.tasks.task import (
  ABILITIES,
  METRICS,
  Task,
  chance,
  held_out,
  measure,
)
from jaxseq.tasks.working_memory import (
  ComplexSpanConfig,
  FreeRecallConfig,
  SerialRecallConfig,
  SpatialCoordinationConfig,
  WorkingMemoryConfig,
)

__all__ = [
  "ABILITIES",
  "METRICS",
  "TASKS",
  "ArrowPointingConfig",
  "ComplexSpanConfig",
  "FreeRecallConfig",
  "InductionHeadsConfig",
  "ListOpsConfig",
  "MemoryUpdatingConfig",
  "MovingDigitsConfig",
  "NBackConfig",
  "ParityConfig",
  "PathfinderConfig",
  "PixelDigitsConfig",
  "RecallConfig",
  "SelectiveCopyingConfig",
  "SerialRecallConfig",
  "SpatialCoordinationConfig",
  "Task",
  "TaskSwitchingConfig",
  "WorkingMemoryConfig",
  "chance",
  "held_out",
  "measure",
  "task",
]

TASKS: dict[str, Task] = {
  t.name: t
  for t in (
    # Recall.
    Task(
      "mqar",
      RecallConfig,
      recall.batch,
      "recall",
      "Arora et al. 2023, arXiv:2312.04927",
    ),
    Task(
      "induction_heads",
      InductionHeadsConfig,
      induction_heads.batch,
      "recall",
      "Gu & Dao 2023, arXiv:2312.00752",
    ),
    # Copying.
    Task(
      "selective_copying",
      SelectiveCopyingConfig,
      selective_copying.batch,
      "copying",
      "Gu & Dao 2023, arXiv:2312.00752",
    ),
    # State tracking.
    Task(
      "parity",
      ParityConfig,
      parity.batch,
      "state tracking",
      "Grazzi et al. 2024, arXiv:2411.12537",
    ),
    # In-context learning.
    # Memory.
    Task(
      "worm_serial_recall",
      SerialRecallConfig,
      functools.partial(working_memory.batch, trial=working_memory.serial_recall),
      "memory",
      "Sikarwar & Zhang 2023, arXiv:2307.10768",
    ),
    Task(
      "worm_serial_recognition",
      WorkingMemoryConfig,
      functools.partial(working_memory.batch, trial=working_memory.serial_recognition),
      "memory",
      "Sikarwar & Zhang 2023, arXiv:2307.10768",
    ),
    Task(
      "worm_free_recall",
      FreeRecallConfig,
      functools.partial(working_memory.batch, trial=working_memory.free_recall),
      "memory",
      "Sikarwar & Zhang 2023, arXiv:2307.10768",
    ),
    Task(
      "worm_item_recognition",
      WorkingMemoryConfig,
      functools.partial(working_memory.batch, trial=working_memory.item_recognition),
      "memory",
      "Sikarwar & Zhang 2023, arXiv:2307.10768",
    ),
    Task(
      "worm_change_detection",
      WorkingMemoryConfig,
      functools.partial(working_memory.batch, trial=working_memory.change_detection),
      "memory",
      "Sikarwar & Zhang 2023, arXiv:2307.10768",
    ),
    Task(
      "worm_feature_binding",
      WorkingMemoryConfig,
      functools.partial(working_memory.batch, trial=working_memory.feature_binding),
      "memory",
      "Sikarwar & Zhang 2023, arXiv:2307.10768",
    ),
    Task(
      "worm_spatial_coordination",
      SpatialCoordinationConfig,
      functools.partial(
        working_memory.batch, trial=working_memory.spatial_coordination
      ),
      "memory",
      "Sikarwar & Zhang 2023, arXiv:2307.10768",
    ),
    Task(
      "worm_complex_span",
      ComplexSpanConfig,
      functools.partial(working_memory.batch, trial=working_memory.complex_span),
      "memory",
      "Sikarwar & Zhang 2023, arXiv:2307.10768",
    ),
    Task(
      "worm_memory_updating",
      MemoryUpdatingConfig,
      memory_updating.memory_updating,
      "memory",
      "Sikarwar & Zhang 2023, arXiv:2307.10768",
    ),
    Task(
      "worm_task_switching",
      TaskSwitchingConfig,
      memory_updating.task_switching,
      "memory",
      "Sikarwar & Zhang 2023, arXiv:2307.10768",
    ),
    Task(
      "n_back",
      NBackConfig,
      memory_updating.n_back,
      "memory",
      "Kirchner 1958, doi:10.1037/h0043688",
    ),
    # Long range.
    Task(
      "listops",
      ListOpsConfig,
      listops.batch,
      "long range",
      "Nangia & Bowman 2018, arXiv:1804.06028",
      predicts="class",
    ),
    Task(
      "pathfinder",
      PathfinderConfig,
      pathfinder.batch,
      "long range",
      "Linsley et al. 2018, arXiv:1805.08477",
      predicts="class",
    ),
    # Images.
    Task(
      "arrow_pointing",
      ArrowPointingConfig,
      arrow_pointing.batch,
      "images",
      "Poeppel et al. 2025, arXiv:2506.11997",
      predicts="class",
    ),
    Task(
      "pixel_digits",
      PixelDigitsConfig,
      pixel_digits.batch,
      "images",
      "Le et al. 2015, arXiv:1504.00941",
      predicts="class",
    ),
  )
}


def task(name: str) -> Task:
  """The task of that name.

  Raises:
    ValueError: If there is none; names the nearest.
  """
  if name in TASKS:
    return TASKS[name]
  near = difflib.get_close_matches(name, TASKS, n=3, cutoff=0.4)
  hint = f"did you mean {' or '.join(near)}?" if near else f"there are {list(TASKS)}"
  raise ValueError(f"no task is called {name!r}; {hint}")
