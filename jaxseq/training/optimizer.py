"""Optimizers and learning-rate schedules, all of them optax's.

Weight decay, and Muon's orthogonalised steps, act on the matrices of projections alone:
the parameters called `kernel`. Embeddings, output matrices, norms, biases, gates and
convolutions are not decayed, and under Muon they are trained by Adam, as its authors
advise (Jordan et al. 2024; Liu et al. 2025, arXiv:2502.16982).
"""

import dataclasses

import jax
import optax
from optax import contrib

__all__ = ["OPTIMIZERS", "SCHEDULES", "OptimizerConfig", "make_optimizer", "schedule"]

OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("cosine", "linear", "constant", "wsd")

DECAY_SHARE = 0.2  # Of the steps of "wsd" in which the rate falls.


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """What to optimise with.

  Attributes:
    total_steps: At which the schedule ends.
    name: One of `OPTIMIZERS`.
    learning_rate: At its peak.
    schedule: One of `SCHEDULES`, after the warm-up: down along a cosine or a line, not
      at all, or ("wsd": warm up, stay, decay) along a line in the last fifth.
    warmup_steps: In which the rate rises from 0; fewer than `total_steps`.
    final_fraction: Of the peak, at the end.
    weight_decay: Times the learning rate, at each step.
    beta1: Of Adam's first moments. Muon's momentum is optax's, 0.95.
    beta2: Of Adam's second moments.
    epsilon: Of Adam's denominators, and of Muon's norm.
    clip_norm: Largest global norm of a gradient. 0 does not clip.
  """

  total_steps: int
  name: str = "adamw"
  learning_rate: float = 1e-3
  schedule: str = "cosine"
  warmup_steps: int = 0
  final_fraction: float = 0.1
  weight_decay: float = 0.1
  beta1: float = 0.9
  beta2: float = 0.95
  epsilon: float = 1e-8
  clip_norm: float = 1.0

  def __post_init__(self):
    checks = dict(
      total_steps=(self.total_steps >= 1, ">= 1"),
      name=(self.name in OPTIMIZERS, f"one of {OPTIMIZERS}"),
      learning_rate=(self.learning_rate > 0, "> 0"),
      schedule=(self.schedule in SCHEDULES, f"one of {SCHEDULES}"),
      warmup_steps=(
        0 <= self.warmup_steps < self.total_steps,
        f"in [0, total_steps = {self.total_steps})",
      ),
      final_fraction=(0 <= self.final_fraction <= 1, "in [0, 1]"),
      weight_decay=(self.weight_decay >= 0, ">= 0"),
      beta1=(0 <= self.beta1 < 1, "in [0, 1)"),
      beta2=(0 <= self.beta2 < 1, "in [0, 1)"),
      epsilon=(self.epsilon > 0, "> 0"),
      clip_norm=(self.clip_norm >= 0, ">= 0"),
    )
    for field, (holds, need) in checks.items():
      if not holds:
        raise ValueError(f"optimizer needs {field} {need}; got {getattr(self, field)}")


def schedule(config: OptimizerConfig) -> optax.Schedule:
  """The learning rate at each step."""
  peak, end = config.learning_rate, config.learning_rate * config.final_fraction
  steps = config.total_steps - config.warmup_steps
  if config.schedule == "cosine":
    after = optax.cosine_decay_schedule(peak, steps, config.final_fraction)
  elif config.schedule == "linear":
    after = optax.linear_schedule(peak, end, steps)
  elif config.schedule == "wsd":
    fall = min(max(round(DECAY_SHARE * config.total_steps), 1), steps)
    after = optax.linear_schedule(peak, end, fall, transition_begin=steps - fall)
  else:
    after = optax.constant_schedule(peak)
  if not config.warmup_steps:
    return after
  warmup = optax.linear_schedule(0.0, peak, config.warmup_steps)
  # The first step is not lost on a rate of 0.
  joined = optax.join_schedules([warmup, after], [config.warmup_steps])
  return lambda step: joined(step + 1)


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
  """Clips, then steps."""
  rate = schedule(config)
  if config.name == "adamw":
    step = optax.adamw(
      rate,
      config.beta1,
      config.beta2,
      config.epsilon,
      weight_decay=config.weight_decay,
      mask=lambda params: _by_name(params, lambda x: True, False),
    )
  else:
    axes = lambda x: contrib.MuonDimensionNumbers(x.ndim - 2, x.ndim - 1)
    step = contrib.muon(
      rate,
      eps=config.epsilon,
      weight_decay=config.weight_decay,
      adam_b1=config.beta1,
      adam_b2=config.beta2,
      muon_weight_dimension_numbers=lambda params: _by_name(params, axes, None),
      consistent_rms=0.2,  # Steps as long as Adam's, so that both share a rate.
    )
  if not config.clip_norm:
    return step
  return optax.chain(optax.clip_by_global_norm(config.clip_norm), step)


def _by_name(params, of_kernel, otherwise):
  """A tree like `params`: `of_kernel(x)` at matrices of projections, else `otherwise`.

  The output matrix of a pooled model is a projection called `output`.
  """

  def one(path, x):
    names = [getattr(entry, "key", None) for entry in path]
    return (
      of_kernel(x) if names[-1] == "kernel" and "output" not in names else otherwise
    )

  return jax.tree_util.tree_map_with_path(one, params)
