"""Synthetic tasks: pure functions from random keys to batches."""

import difflib

from jaxseq.tasks import (
  arrow_pointing,
  compression,
  in_context_recall,
  induction_heads,
  joint_recall,
  memorization,
  needle,
  ngram_lookup,
  parity,
  phone_book,
  recall,
  selective_copying,
  set_disjointness,
  string_copying,
)
from jaxseq.tasks.arrow_pointing import ArrowPointingConfig
from jaxseq.tasks.compression import CompressionConfig
from jaxseq.tasks.in_context_recall import (
  FuzzyRecallConfig,
  InContextRecallConfig,
  NoisyRecallConfig,
)
from jaxseq.tasks.induction_heads import InductionHeadsConfig
from jaxseq.tasks.joint_recall import JointRecallConfig
from jaxseq.tasks.memorization import MemorizationConfig
from jaxseq.tasks.moving_digits import MovingDigitsConfig
from jaxseq.tasks.needle import NeedleConfig, PasskeyConfig
from jaxseq.tasks.ngram_lookup import NgramLookupConfig
from jaxseq.tasks.parity import ParityConfig
from jaxseq.tasks.phone_book import PhoneBookConfig
from jaxseq.tasks.recall import RecallConfig
from jaxseq.tasks.selective_copying import SelectiveCopyingConfig
from jaxseq.tasks.set_disjointness import SetDisjointnessConfig
from jaxseq.tasks.string_copying import StringCopyingConfig
from jaxseq.tasks.task import ABILITIES, METRICS, Task, chance, measure

__all__ = [
  "ABILITIES",
  "METRICS",
  "TASKS",
  "ArrowPointingConfig",
  "CompressionConfig",
  "FuzzyRecallConfig",
  "InContextRecallConfig",
  "InductionHeadsConfig",
  "JointRecallConfig",
  "MemorizationConfig",
  "MovingDigitsConfig",
  "NeedleConfig",
  "NgramLookupConfig",
  "NoisyRecallConfig",
  "ParityConfig",
  "PasskeyConfig",
  "PhoneBookConfig",
  "RecallConfig",
  "SelectiveCopyingConfig",
  "SetDisjointnessConfig",
  "StringCopyingConfig",
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
    Task(
      "in_context_recall",
      InContextRecallConfig,
      in_context_recall.batch,
      "recall",
      "Poli et al. 2024, arXiv:2403.17844",
    ),
    Task(
      "noisy_recall",
      NoisyRecallConfig,
      in_context_recall.batch,
      "recall",
      "Poli et al. 2024, arXiv:2403.17844",
    ),
    Task(
      "fuzzy_recall",
      FuzzyRecallConfig,
      in_context_recall.batch,
      "recall",
      "Poli et al. 2024, arXiv:2403.17844",
    ),
    Task(
      "memorization",
      MemorizationConfig,
      memorization.batch,
      "recall",
      "Poli et al. 2024, arXiv:2403.17844",
    ),
    Task(
      "ngram_lookup",
      NgramLookupConfig,
      ngram_lookup.batch,
      "recall",
      "Jelassi et al. 2024, arXiv:2402.01032",
    ),
    Task(
      "phone_book",
      PhoneBookConfig,
      phone_book.batch,
      "recall",
      "Jelassi et al. 2024, arXiv:2402.01032",
    ),
    Task(
      "joint_recall",
      JointRecallConfig,
      joint_recall.batch,
      "recall",
      "Zhan et al. 2025, arXiv:2507.00449",
    ),
    Task(
      "set_disjointness",
      SetDisjointnessConfig,
      set_disjointness.batch,
      "recall",
      "Arora et al. 2024, arXiv:2407.05483",
    ),
    Task(
      "needle",
      NeedleConfig,
      needle.batch,
      "recall",
      "Hsieh et al. 2024, arXiv:2404.06654",
    ),
    Task(
      "passkey",
      PasskeyConfig,
      needle.batch,
      "recall",
      "Mohtashami & Jaggi 2023, arXiv:2305.16300",
    ),
    # Copying.
    Task(
      "selective_copying",
      SelectiveCopyingConfig,
      selective_copying.batch,
      "copying",
      "Gu & Dao 2023, arXiv:2312.00752",
    ),
    Task(
      "compression",
      CompressionConfig,
      compression.batch,
      "copying",
      "Poli et al. 2024, arXiv:2403.17844",
    ),
    Task(
      "string_copying",
      StringCopyingConfig,
      string_copying.batch,
      "copying",
      "Jelassi et al. 2024, arXiv:2402.01032",
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
