"""What every task promises.

    task = tasks.task("mqar")
    config = task.config(num_pairs=4)
    batch = task.batch(jax.random.split(key, 32), config, length)
    tasks.measure(task.metric, outputs, batch)

A batch is that of `data`, and where a task has an optimum (ridge regression, Bayes,
the automaton that wrote the string), it is in the batch too:

    predicts   inputs                       targets        optimum      metric
    tokens     [B, T] ids                   [B, T]         -            accuracy
    tokens     [B, T] ids                   [B, T]         [B, T, W]    divergence
    numbers    [B, T, F]                    [B, T, O]      [B, T, O]    squared_error
    class      [B, T] ids or [B, T, F]      [B]            -            accuracy

`weights` has the shape of the targets without O. Row b depends on key b alone.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["ABILITIES", "METRICS", "Task", "chance", "held_out", "measure"]

ABILITIES = (
  *("recall", "copying", "state tracking", "in-context learning"),
  *("memory", "long range", "images"),
)
METRICS = ("accuracy", "divergence", "squared_error")


@dataclasses.dataclass(frozen=True)
class Task:
  """One task.

  Attributes:
    name: Of the task, and of its source of data.
    config: The class of its knobs, with `vocab_size`, or else `num_inputs`; with
      `num_outputs` if it predicts numbers or a class; with `held_out_examples`; with
      `held_out` where data could be seen twice, see below; and if its metric is
      accuracy, `chance`, that of the best constant answer.
    batch: Called with keys [B], a config and a length T, gives a batch; it raises
      ValueError where the length does not fit.
    ability: One of `ABILITIES`, what it asks for.
    paper: Its arXiv id, or a reference where it has none.
    predicts: What stands in the targets.
    metric: One of `METRICS`.
  """

  name: str
  config: type
  batch: Callable[[Array, Any, int], dict[str, Array]]
  ability: str
  paper: str
  predicts: Literal["tokens", "numbers", "class"] = "tokens"
  metric: str = "accuracy"


def measure(
  metric: str, outputs: Float[Array, "B *T W"], batch: dict[str, Array]
) -> Float[Array, ""]:
  """The metric's mean over a batch's weight.

  Args:
    metric: "accuracy", the share of targets with the largest logit; "divergence", of
      the predicted distribution from the optimum, KL(optimum | predicted), in nats; or
      "squared_error", between prediction and optimum, its mean over O.
    outputs: Logits, or numbers.
    batch: See above.

  Raises:
    ValueError: If there is no such metric, or the batch has no optimum for it.
  """
  if metric not in METRICS:
    raise ValueError(f"metric must be one of {METRICS}; got {metric!r}")
  if metric == "accuracy":
    each = outputs.argmax(-1) == batch["targets"]
  elif "optimum" not in batch:
    raise ValueError(f"{metric} needs a batch with an optimum; got {sorted(batch)}")
  elif metric == "divergence":
    p = batch["optimum"]
    log_p = jnp.log(jnp.where(p > 0, p, 1))
    each = jnp.sum(p * (log_p - jax.nn.log_softmax(outputs)), axis=-1)
  else:
    each = jnp.mean((outputs - batch["optimum"]) ** 2, axis=-1)
  weights = batch["weights"]
  return jnp.sum(each * weights) / jnp.maximum(jnp.sum(weights), 1)


def held_out(config: Any) -> Any:
  """The config of a task's held-out data.

  Keys that were not trained on are enough, and this is the config itself, but where a
  task draws from a finite set it has a field `held_out`, which is set.
  """
  if not hasattr(config, "held_out"):
    return config
  return dataclasses.replace(config, held_out=True)


def chance(metric: str, config: Any, batch: dict[str, Array]) -> float:
  """The metric of the best answer that does not look at the sequence.

  Args:
    metric: One of `METRICS`.
    config: Of the task; its `chance` is given back for the accuracy.
    batch: Held-out data. The mean of its optimum is the constant answer otherwise.
  """
  if metric == "accuracy":
    return config.chance
  weights, optimum = batch["weights"], batch["optimum"]
  mean = jnp.tensordot(weights, optimum, axes=weights.ndim) / jnp.sum(weights)
  constant = jnp.log(jnp.maximum(mean, 1e-30)) if metric == "divergence" else mean
  return float(measure(metric, jnp.broadcast_to(constant, optimum.shape), batch))
