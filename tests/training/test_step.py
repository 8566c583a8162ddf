import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing, training

CONFIG = training.OptimizerConfig(
  total_steps=50, learning_rate=0.05, schedule="constant", weight_decay=0.0
)


def loss_fn(params, batch, key):
  """Weighted least squares. A batch can hold its own poison."""
  errors = batch["x"] @ params["kernel"] - batch["y"]
  loss = jnp.sum(batch["weights"] * errors**2) + jnp.sum(batch["poison"])
  return loss, {"weight": jnp.sum(batch["weights"]), "noise": jax.random.normal(key)}


def batch(seed, poison=0.0, rows=8):
  keys = jax.random.split(jax.random.key(seed), 3)
  x = jax.random.normal(keys[0], (rows, 3))
  weights = jax.random.randint(keys[1], (rows,), 0, 4).astype(jnp.float32)
  y = x @ jnp.array([1.0, -2.0, 3.0])
  return dict(x=x, y=y, weights=weights, poison=jnp.full(rows, poison))


def start(ema=False):
  optimizer = training.make_optimizer(CONFIG)
  params = {"kernel": jnp.zeros(3)}
  return training.create(params, optimizer, jax.random.key(0), ema=ema)


@functools.cache
def step_function(**options):
  optimizer = training.make_optimizer(CONFIG)
  step = training.make_step(loss_fn, optimizer, training.schedule(CONFIG), **options)
  return jax.jit(step)


def test_it_learns():
  state, step = start(), step_function()
  for i in range(300):
    state, metrics = step(state, batch(i))
  assert metrics["loss"] < 0.05 and state.step == 300 and state.skipped == 0


@pytest.mark.parametrize("count", [2, 4])
def test_microbatches_give_the_gradient_of_the_whole(count):
  whole, metrics = step_function()(start(), batch(0))
  state, other = step_function(accumulate_steps=count)(start(), batch(0))
  testing.assert_close(state.params, whole.params)
  testing.assert_close(other["loss"], metrics["loss"])
  testing.assert_close(other["grad_norm"], metrics["grad_norm"])


def test_microbatches_that_do_not_divide_the_batch_are_refused():
  with pytest.raises(ValueError, match="divide a batch's 8 rows; got 3"):
    step_function(accumulate_steps=3)(start(), batch(0))


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_no_parameter_and_is_counted(poison):
  step = step_function(ema_decay=0.9)
  before, _ = step(start(ema=True), batch(0))
  state, _ = step(before, batch(1, poison))
  testing.assert_close((state.params, state.ema), (before.params, before.ema))
  testing.assert_close(state.opt_state, before.opt_state)
  assert (state.step, state.skipped, state.skipped_in_a_row) == (2, 1, 1)
  state, metrics = step(state, batch(1, poison))
  assert metrics["skipped_in_a_row"] == 2
  state, metrics = step(state, batch(2))
  assert (state.skipped, state.skipped_in_a_row) == (2, 0)
  training.check_finite(metrics, 1)


def test_too_many_skipped_steps_in_a_row_end_the_run():
  training.check_finite({"skipped_in_a_row": jnp.int32(2)}, 3)
  with pytest.raises(training.NonFiniteError, match="3 steps in a row"):
    training.check_finite({"skipped_in_a_row": jnp.int32(3)}, 3)


def test_the_average_follows_the_parameters():
  step = step_function(ema_decay=0.75)
  state = start(ema=True)
  want = state.ema["kernel"]
  for i in range(5):
    state, _ = step(state, batch(i))
    want = 0.75 * want + 0.25 * state.params["kernel"]
  testing.assert_close(state.ema["kernel"], want)
  assert state.eval_params is state.ema


def test_each_step_has_a_key_of_its_own():
  state, step = start(), step_function()
  noise = []
  for _ in range(3):
    state, metrics = step(state, batch(0))
    noise.append(float(metrics["noise"] * batch(0)["weights"].sum()))
  assert len(set(noise)) == 3


def test_evaluation_is_the_mean_over_all_weights():
  evaluate = jax.jit(training.make_evaluation(loss_fn))
  batches = [batch(0), batch(1, rows=4)]
  got = training.mean_metrics(evaluate(start(), b) for b in batches)
  total = sum(float(jnp.sum(b["weights"] * b["y"] ** 2)) for b in batches)
  weight = sum(float(b["weights"].sum()) for b in batches)
  np.testing.assert_allclose(got["loss"], total / weight, rtol=1e-5)
