"""Synthetic tasks: pure functions from random keys to batches."""

import difflib

from jaxseq.tasks import (
  arrow_pointing,
  automata,
  discrete_functions,
  fourier_regression,
  induction_heads,
  linear_regression,
  markov_chains,
  parity,
  recall,
  regression_mixture,
  selective_copying,
  sparse_linear_regression,
)
from jaxseq.tasks.arrow_pointing import ArrowPointingConfig
from jaxseq.tasks.automata import AutomataConfig
from jaxseq.tasks.discrete_functions import DiscreteFunctionsConfig
from jaxseq.tasks.fourier_regression import FourierRegressionConfig
from jaxseq.tasks.induction_heads import InductionHeadsConfig
from jaxseq.tasks.linear_regression import LinearRegressionConfig
from jaxseq.tasks.markov_chains import MarkovChainsConfig
from jaxseq.tasks.moving_digits import MovingDigitsConfig
from jaxseq.tasks.parity import ParityConfig
from jaxseq.tasks.recall import RecallConfig
from jaxseq.tasks.regression_mixture import RegressionMixtureConfig
from jaxseq.tasks.selective_copying import SelectiveCopyingConfig
from jaxseq.tasks.sparse_linear_regression import SparseLinearRegressionConfig
from jaxseq.tasks.task import ABILITIES, METRICS, Task, chance, measure

__all__ = [
  "ABILITIES",
  "METRICS",
  "TASKS",
  "ArrowPointingConfig",
  "AutomataConfig",
  "DiscreteFunctionsConfig",
  "FourierRegressionConfig",
  "InductionHeadsConfig",
  "LinearRegressionConfig",
  "MarkovChainsConfig",
  "MovingDigitsConfig",
  "ParityConfig",
  "RecallConfig",
  "RegressionMixtureConfig",
  "SelectiveCopyingConfig",
  "SparseLinearRegressionConfig",
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
    # In-context learning.
    Task(
      "linear_regression",
      LinearRegressionConfig,
      linear_regression.batch,
      "in-context learning",
      "Garg et al. 2022, arXiv:2208.01066",
      predicts="numbers",
      metric="squared_error",
    ),
    Task(
      "sparse_linear_regression",
      SparseLinearRegressionConfig,
      sparse_linear_regression.batch,
      "in-context learning",
      "Garg et al. 2022, arXiv:2208.01066",
      predicts="numbers",
      metric="squared_error",
    ),
    Task(
      "fourier_regression",
      FourierRegressionConfig,
      fourier_regression.batch,
      "in-context learning",
      "Panwar et al. 2023, arXiv:2306.04891",
      predicts="numbers",
      metric="squared_error",
    ),
    Task(
      "regression_mixture",
      RegressionMixtureConfig,
      regression_mixture.batch,
      "in-context learning",
      "Pathak et al. 2023, arXiv:2311.08362",
      predicts="numbers",
      metric="squared_error",
    ),
    Task(
      "discrete_functions",
      DiscreteFunctionsConfig,
      discrete_functions.batch,
      "in-context learning",
      "Bhattamishra et al. 2023, arXiv:2310.03016",
      predicts="numbers",
      metric="squared_error",
    ),
    Task(
      "markov_chains",
      MarkovChainsConfig,
      markov_chains.batch,
      "in-context learning",
      "Bondaschi et al. 2025, arXiv:2502.10178",
      metric="divergence",
    ),
    Task(
      "automata",
      AutomataConfig,
      automata.batch,
      "in-context learning",
      "Akyürek et al. 2024, arXiv:2401.12973",
      metric="divergence",
    ),
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
