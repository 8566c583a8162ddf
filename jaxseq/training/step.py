"""One step of training, a pure function of state and batch."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxseq.training.state import TrainState

__all__ = [
  "NonFiniteError",
  "check_finite",
  "make_evaluation",
  "make_step",
  "mean_metrics",
]

# Of params, batch and key: the summed loss, and further sums, "weight" among them, by
# which all are divided.
LossFn = Callable[[Any, dict, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


class NonFiniteError(Exception):
  """Too many steps in a row had a loss or gradient that was not finite."""


def make_step(
  loss_fn: LossFn,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  *,
  accumulate_steps: int = 1,
  ema_decay: float | None = None,
):
  """A function of state and batch that gives the next state and metrics.

  The gradient is that of the mean loss over the batch's weight, however many
  microbatches it is made in. A step whose loss or gradient is not finite changes no
  parameter; it is counted.

  Args:
    loss_fn: See `LossFn`.
    optimizer: Of the parameters.
    schedule: Its learning rate, for the metrics.
    accumulate_steps: Microbatches, which divide the rows of a batch.
    ema_decay: Of the average of the parameters, if the state has one.
  """

  def step(state: TrainState, batch: dict):
    key = jax.random.fold_in(state.key, state.step)
    sums, grads = _sums(loss_fn, state.params, batch, key, accumulate_steps)
    weight = jnp.maximum(sums["weight"], 1e-8)
    grads = jax.tree.map(lambda g: g / weight, grads)
    norm = optax.global_norm(grads)
    finite = jnp.isfinite(sums["loss"]) & jnp.isfinite(norm)

    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
      ema = optax.incremental_update(params, ema, 1 - ema_decay)
    new = (params, opt_state, ema)
    old = (state.params, state.opt_state, state.ema)
    params, opt_state, ema = jax.tree.map(
      lambda a, b: jnp.where(finite, a, b), new, old
    )
    new_state = state.replace(
      step=state.step + 1,
      params=params,
      opt_state=opt_state,
      ema=ema,
      skipped=state.skipped + ~finite,
      skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
    )
    metrics = {name: value / weight for name, value in sums.items() if name != "weight"}
    metrics |= dict(
      grad_norm=norm,
      learning_rate=schedule(_updates(state)),
      param_norm=optax.global_norm(params),
      skipped=new_state.skipped,
      skipped_in_a_row=new_state.skipped_in_a_row,
    )
    return new_state, metrics

  return step


def _updates(state: TrainState):
  """Steps that the optimizer has seen: skipped ones do not move its schedule."""
  return state.step - state.skipped


def _sums(loss_fn, params, batch, key, count):
  """Summed losses and their gradient, over `count` microbatches."""

  def one(params, batch, key):
    loss, sums = loss_fn(params, batch, key)
    return loss, {"loss": loss, **sums}

  grad = jax.grad(one, has_aux=True)
  if count == 1:
    grads, sums = grad(params, batch, key)
    return sums, grads
  rows = jax.tree.leaves(batch)[0].shape[0]
  if rows % count:
    raise ValueError(
      f"make_step needs accumulate_steps that divide a batch's {rows} rows; got {count}"
    )

  # Row r goes to microbatch r mod count, so that each has rows of every device.
  cut = lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)
  microbatches = jax.tree.map(cut, batch)

  def add(totals, numbered):
    number, microbatch = numbered
    grads, sums = grad(params, microbatch, jax.random.fold_in(key, number))
    return jax.tree.map(jnp.add, totals, (sums, grads)), None

  shapes = jax.eval_shape(
    lambda: grad(params, jax.tree.map(lambda x: x[0], microbatches), key)[::-1]
  )
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  return jax.lax.scan(add, zeros, (jnp.arange(count), microbatches))[0]


def make_evaluation(loss_fn: LossFn):
  """A function of state and batch that gives the summed metrics of held-out data."""

  def evaluate(state: TrainState, batch: dict):
    loss, sums = loss_fn(state.eval_params, batch, state.key)
    return {"loss": loss, **sums}

  return evaluate


def mean_metrics(sums: Iterable[dict[str, jax.Array]]) -> dict[str, float]:
  """Adds up the metrics of batches and divides them by their weight."""
  totals: dict[str, float] = {}
  for batch in sums:
    for name, value in batch.items():
      totals[name] = totals.get(name, 0.0) + float(value)
  weight = totals.pop("weight")
  return {name: value / weight for name, value in totals.items()}


def check_finite(metrics: dict[str, jax.Array], max_skipped: int) -> None:
  """Ends a run that has gone wrong.

  Raises:
    NonFiniteError: If the last `max_skipped` steps or more were skipped.
  """
  skipped = int(metrics["skipped_in_a_row"])
  if skipped >= max_skipped:
    raise NonFiniteError(
      f"{skipped} steps in a row had a loss or gradient that was not finite; "
      "the last good parameters are in the checkpoints"
    )
