"""Synthetic tasks: pure functions from random keys to batches."""

import difflib
import functools

from jaxseq.tasks import (
  arrow_pointing,
  automata,
  compression,
  discrete_functions,
  fourier_regression,
  in_context_recall,
  induction_heads,
  joint_recall,
  linear_regression,
  listops,
  markov_chains,
  memorization,
  memory_updating,
  needle,
  ngram_lookup,
  parity,
  pathfinder,
  phone_book,
  pixel_digits,
  recall,
  regression_mixture,
  selective_copying,
  set_disjointness,
  sparse_linear_regression,
  string_copying,
  working_memory,
)
from jaxseq.tasks.task import ABILITIES, METRICS, Task, chance, held_out, measure

__all__ = [
  "ABILITIES",
  "METRICS",
  "TASKS",
  "Task",
  "chance",
  "held_out",
  "measure",
  "task",
]

TASKS: dict[str, Task] = {
  t.name: t
  for t in (
    # Recall.
    Task("mqar", recall.RecallConfig, recall.batch, "recall", "2312.04927"),
    Task(
      "induction_heads",
      induction_heads.InductionHeadsConfig,
      induction_heads.batch,
      "recall",
      "2312.00752",
    ),
    Task(
      "in_context_recall",
      in_context_recall.InContextRecallConfig,
      in_context_recall.batch,
      "recall",
      "2403.17844",
    ),
    Task(
      "noisy_recall",
      in_context_recall.NoisyRecallConfig,
      in_context_recall.batch,
      "recall",
      "2403.17844",
    ),
    Task(
      "fuzzy_recall",
      in_context_recall.FuzzyRecallConfig,
      in_context_recall.batch,
      "recall",
      "2403.17844",
    ),
    Task(
      "memorization",
      memorization.MemorizationConfig,
      memorization.batch,
      "recall",
      "2403.17844",
    ),
    Task(
      "ngram_lookup",
      ngram_lookup.NgramLookupConfig,
      ngram_lookup.batch,
      "recall",
      "2402.01032",
    ),
    Task(
      "phone_book", phone_book.PhoneBookConfig, phone_book.batch, "recall", "2402.01032"
    ),
    Task(
      "joint_recall",
      joint_recall.JointRecallConfig,
      joint_recall.batch,
      "recall",
      "2507.00449",
    ),
    Task(
      "set_disjointness",
      set_disjointness.SetDisjointnessConfig,
      set_disjointness.batch,
      "recall",
      "2407.05483",
    ),
    Task("needle", needle.NeedleConfig, needle.batch, "recall", "2404.06654"),
    Task("passkey", needle.PasskeyConfig, needle.batch, "recall", "2305.16300"),
    # Copying.
    Task(
      "selective_copying",
      selective_copying.SelectiveCopyingConfig,
      selective_copying.batch,
      "copying",
      "2312.00752",
    ),
    Task(
      "compression",
      compression.CompressionConfig,
      compression.batch,
      "copying",
      "2403.17844",
    ),
    Task(
      "string_copying",
      string_copying.StringCopyingConfig,
      string_copying.batch,
      "copying",
      "2402.01032",
    ),
    # State tracking.
    Task("parity", parity.ParityConfig, parity.batch, "state tracking", "2411.12537"),
    # In-context learning.
    Task(
      "linear_regression",
      linear_regression.LinearRegressionConfig,
      linear_regression.batch,
      "in-context learning",
      "2208.01066",
      predicts="numbers",
      metric="squared_error",
    ),
    Task(
      "sparse_linear_regression",
      sparse_linear_regression.SparseLinearRegressionConfig,
      sparse_linear_regression.batch,
      "in-context learning",
      "2208.01066",
      predicts="numbers",
      metric="squared_error",
    ),
    Task(
      "fourier_regression",
      fourier_regression.FourierRegressionConfig,
      fourier_regression.batch,
      "in-context learning",
      "2306.04891",
      predicts="numbers",
      metric="squared_error",
    ),
    Task(
      "regression_mixture",
      regression_mixture.RegressionMixtureConfig,
      regression_mixture.batch,
      "in-context learning",
      "2311.08362",
      predicts="numbers",
      metric="squared_error",
    ),
    Task(
      "discrete_functions",
      discrete_functions.DiscreteFunctionsConfig,
      discrete_functions.batch,
      "in-context learning",
      "2310.03016",
      predicts="numbers",
      metric="squared_error",
    ),
    Task(
      "markov_chains",
      markov_chains.MarkovChainsConfig,
      markov_chains.batch,
      "in-context learning",
      "2502.10178",
      metric="divergence",
    ),
    Task(
      "automata",
      automata.AutomataConfig,
      automata.batch,
      "in-context learning",
      "2401.12973",
      metric="divergence",
    ),
    # Memory.
    Task(
      "worm_serial_recall",
      working_memory.SerialRecallConfig,
      functools.partial(working_memory.batch, trial=working_memory.serial_recall),
      "memory",
      "2307.10768",
    ),
    Task(
      "worm_serial_recognition",
      working_memory.WorkingMemoryConfig,
      functools.partial(working_memory.batch, trial=working_memory.serial_recognition),
      "memory",
      "2307.10768",
    ),
    Task(
      "worm_free_recall",
      working_memory.FreeRecallConfig,
      functools.partial(working_memory.batch, trial=working_memory.free_recall),
      "memory",
      "2307.10768",
    ),
    Task(
      "worm_item_recognition",
      working_memory.WorkingMemoryConfig,
      functools.partial(working_memory.batch, trial=working_memory.item_recognition),
      "memory",
      "2307.10768",
    ),
    Task(
      "worm_change_detection",
      working_memory.WorkingMemoryConfig,
      functools.partial(working_memory.batch, trial=working_memory.change_detection),
      "memory",
      "2307.10768",
    ),
    Task(
      "worm_feature_binding",
      working_memory.WorkingMemoryConfig,
      functools.partial(working_memory.batch, trial=working_memory.feature_binding),
      "memory",
      "2307.10768",
    ),
    Task(
      "worm_spatial_coordination",
      working_memory.SpatialCoordinationConfig,
      functools.partial(
        working_memory.batch, trial=working_memory.spatial_coordination
      ),
      "memory",
      "2307.10768",
    ),
    Task(
      "worm_complex_span",
      working_memory.ComplexSpanConfig,
      functools.partial(working_memory.batch, trial=working_memory.complex_span),
      "memory",
      "2307.10768",
    ),
    Task(
      "worm_memory_updating",
      memory_updating.MemoryUpdatingConfig,
      memory_updating.memory_updating,
      "memory",
      "2307.10768",
    ),
    Task(
      "worm_task_switching",
      memory_updating.TaskSwitchingConfig,
      memory_updating.task_switching,
      "memory",
      "2307.10768",
    ),
    Task(
      "n_back",
      memory_updating.NBackConfig,
      memory_updating.n_back,
      "memory",
      "Kirchner 1958, doi:10.1037/h0043688",
    ),
    # Long range.
    Task(
      "listops",
      listops.ListOpsConfig,
      listops.batch,
      "long range",
      "1804.06028",
      predicts="class",
    ),
    Task(
      "pathfinder",
      pathfinder.PathfinderConfig,
      pathfinder.batch,
      "long range",
      "1805.08477",
      predicts="class",
    ),
    # Images.
    Task(
      "arrow_pointing",
      arrow_pointing.ArrowPointingConfig,
      arrow_pointing.batch,
      "images",
      "2506.11997",
      predicts="class",
    ),
    Task(
      "pixel_digits",
      pixel_digits.PixelDigitsConfig,
      pixel_digits.batch,
      "images",
      "1504.00941",
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
