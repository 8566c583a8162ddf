"""Synthetic tasks: pure functions from random keys to batches."""

import difflib

from jaxseq.tasks import (
  arrow_pointing,
  bounded_dyck,
  chomsky,
  counter_languages,
  counting,
  flip_flop,
  group_words,
  induction_heads,
  parity,
  recall,
  regular_languages,
  selective_copying,
)
from jaxseq.tasks.arrow_pointing import ArrowPointingConfig
from jaxseq.tasks.bounded_dyck import BoundedDyckConfig
from jaxseq.tasks.chomsky_context_free import (
  ModularArithmeticBracketsConfig,
  ReverseStringConfig,
  SolveEquationConfig,
  StackManipulationConfig,
)
from jaxseq.tasks.chomsky_context_sensitive import (
  BinaryAdditionConfig,
  BucketSortConfig,
  DuplicateStringConfig,
  MissingDuplicateConfig,
  OddsFirstConfig,
)
from jaxseq.tasks.chomsky_regular import (
  CycleNavigationConfig,
  EvenPairsConfig,
  ModularArithmeticConfig,
)
from jaxseq.tasks.counter_languages import CounterConfig, ShuffleDyckConfig
from jaxseq.tasks.counting import CountingConfig
from jaxseq.tasks.flip_flop import FlipFlopConfig
from jaxseq.tasks.group_words import A5Config, ModularAdditionConfig, S3Config, S5Config
from jaxseq.tasks.induction_heads import InductionHeadsConfig
from jaxseq.tasks.moving_digits import MovingDigitsConfig
from jaxseq.tasks.parity import ParityConfig
from jaxseq.tasks.recall import RecallConfig
from jaxseq.tasks.regular_languages import StarFreeConfig, TomitaConfig
from jaxseq.tasks.selective_copying import SelectiveCopyingConfig
from jaxseq.tasks.task import ABILITIES, METRICS, Task, chance, measure

__all__ = [
  "ABILITIES",
  "METRICS",
  "TASKS",
  "ArrowPointingConfig",
  "BoundedDyckConfig",
  "ModularArithmeticBracketsConfig",
  "ReverseStringConfig",
  "SolveEquationConfig",
  "StackManipulationConfig",
  "BinaryAdditionConfig",
  "BucketSortConfig",
  "DuplicateStringConfig",
  "MissingDuplicateConfig",
  "OddsFirstConfig",
  "CycleNavigationConfig",
  "EvenPairsConfig",
  "ModularArithmeticConfig",
  "CounterConfig",
  "ShuffleDyckConfig",
  "CountingConfig",
  "FlipFlopConfig",
  "A5Config",
  "ModularAdditionConfig",
  "S3Config",
  "S5Config",
  "StarFreeConfig",
  "TomitaConfig",
  "InductionHeadsConfig",
  "MovingDigitsConfig",
  "ParityConfig",
  "RecallConfig",
  "SelectiveCopyingConfig",
  "Task",
  "chance",
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
    Task(
      "modular_addition",
      ModularAdditionConfig,
      group_words.batch,
      "state tracking",
      "Merrill et al. 2024, arXiv:2404.08819",
    ),
    Task(
      "s3",
      S3Config,
      group_words.batch,
      "state tracking",
      "Merrill et al. 2024, arXiv:2404.08819",
    ),
    Task(
      "a5",
      A5Config,
      group_words.batch,
      "state tracking",
      "Merrill et al. 2024, arXiv:2404.08819",
    ),
    Task(
      "s5",
      S5Config,
      group_words.batch,
      "state tracking",
      "Merrill et al. 2024, arXiv:2404.08819",
    ),
    Task(
      "flip_flop",
      FlipFlopConfig,
      flip_flop.batch,
      "state tracking",
      "Liu et al. 2023, arXiv:2306.00946",
    ),
    Task(
      "bounded_dyck",
      BoundedDyckConfig,
      bounded_dyck.batch,
      "state tracking",
      "Yao et al. 2021, arXiv:2105.11115",
    ),
    Task(
      "tomita",
      TomitaConfig,
      regular_languages.batch,
      "state tracking",
      "Bhattamishra et al. 2020, arXiv:2009.11264",
    ),
    Task(
      "star_free",
      StarFreeConfig,
      regular_languages.batch,
      "state tracking",
      "Bhattamishra et al. 2020, arXiv:2009.11264",
    ),
    Task(
      "counter_language",
      CounterConfig,
      counter_languages.counter_batch,
      "state tracking",
      "Bhattamishra et al. 2020, arXiv:2009.11264",
    ),
    Task(
      "shuffle_dyck",
      ShuffleDyckConfig,
      counter_languages.shuffle_dyck_batch,
      "state tracking",
      "Bhattamishra et al. 2020, arXiv:2009.11264",
    ),
    Task(
      "even_pairs",
      EvenPairsConfig,
      chomsky.batch,
      "state tracking",
      "Delétang et al. 2022, arXiv:2207.02098",
    ),
    Task(
      "cycle_navigation",
      CycleNavigationConfig,
      chomsky.batch,
      "state tracking",
      "Delétang et al. 2022, arXiv:2207.02098",
    ),
    Task(
      "modular_arithmetic",
      ModularArithmeticConfig,
      chomsky.batch,
      "state tracking",
      "Delétang et al. 2022, arXiv:2207.02098",
    ),
    Task(
      "reverse_string",
      ReverseStringConfig,
      chomsky.batch,
      "state tracking",
      "Delétang et al. 2022, arXiv:2207.02098",
    ),
    Task(
      "stack_manipulation",
      StackManipulationConfig,
      chomsky.batch,
      "state tracking",
      "Delétang et al. 2022, arXiv:2207.02098",
    ),
    Task(
      "modular_arithmetic_brackets",
      ModularArithmeticBracketsConfig,
      chomsky.batch,
      "state tracking",
      "Delétang et al. 2022, arXiv:2207.02098",
    ),
    Task(
      "solve_equation",
      SolveEquationConfig,
      chomsky.batch,
      "state tracking",
      "Delétang et al. 2022, arXiv:2207.02098",
    ),
    Task(
      "duplicate_string",
      DuplicateStringConfig,
      chomsky.batch,
      "state tracking",
      "Delétang et al. 2022, arXiv:2207.02098",
    ),
    Task(
      "missing_duplicate",
      MissingDuplicateConfig,
      chomsky.batch,
      "state tracking",
      "Delétang et al. 2022, arXiv:2207.02098",
    ),
    Task(
      "odds_first",
      OddsFirstConfig,
      chomsky.batch,
      "state tracking",
      "Delétang et al. 2022, arXiv:2207.02098",
    ),
    Task(
      "bucket_sort",
      BucketSortConfig,
      chomsky.batch,
      "state tracking",
      "Delétang et al. 2022, arXiv:2207.02098",
    ),
    Task(
      "binary_addition",
      BinaryAdditionConfig,
      chomsky.batch,
      "state tracking",
      "Delétang et al. 2022, arXiv:2207.02098",
    ),
    Task(
      "counting",
      CountingConfig,
      counting.batch,
      "state tracking",
      "Zhang et al. 2024, arXiv:2410.19730",
    ),
    # In-context learning.
    # Memory.
    # Long range.
    # Images.
    Task(
      "arrow_pointing",
      ArrowPointingConfig,
      arrow_pointing.batch,
      "images",
      "Poeppel et al. 2025, arXiv:2506.11997",
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
