"""Training: optimizer, step, populations, checkpoints, metrics."""

from jaxseq.training.checkpoint import Checkpointer, DamagedError, check_config
from jaxseq.training.interrupt import GracefulStop
from jaxseq.training.metrics import MetricsWriter, draw_curves, read_metrics
from jaxseq.training.optimizer import OptimizerConfig, make_optimizer, schedule
from jaxseq.training.population import (
  Population,
  create_population,
  make_population_steps,
  over_data,
)
from jaxseq.training.state import TrainState, create
from jaxseq.training.step import (
  NonFiniteError,
  check_finite,
  make_evaluation,
  make_step,
  mean_metrics,
)

__all__ = [
  "Checkpointer",
  "DamagedError",
  "GracefulStop",
  "MetricsWriter",
  "NonFiniteError",
  "OptimizerConfig",
  "Population",
  "TrainState",
  "check_config",
  "check_finite",
  "create",
  "create_population",
  "draw_curves",
  "make_evaluation",
  "make_optimizer",
  "make_population_steps",
  "make_step",
  "mean_metrics",
  "over_data",
  "read_metrics",
  "schedule",
]
