import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.tasks import linear_regression

D, LENGTH = 5, 31
Config = linear_regression.LinearRegressionConfig
make = jax.jit(linear_regression.batch, static_argnums=(1, 2))


def rows(config, length, number=20):
  batch = make(jax.random.split(jax.random.key(0), number), config, length)
  return jax.tree.map(lambda x: np.asarray(x, np.float64), batch)


def ridge(x, y, query, noise):
  """With no noise, the least squares of least norm."""
  if noise == 0:
    return np.linalg.lstsq(x, y)[0] @ query
  return np.linalg.solve(x.T @ x + noise**2 * D * np.eye(D), x.T @ y) @ query


@pytest.mark.parametrize("noise, condition", [(0.0, 1.0), (0.0, 50.0), (0.3, 1.0)])
def test_the_optimum_is_ridge_regression_on_the_examples_before(noise, condition):
  config = Config(num_dims=D, noise=noise, condition_number=condition)
  batch = rows(config, LENGTH)
  for tokens, targets, optimum, weights in zip(
    *(batch[k] for k in ("inputs", "targets", "optimum", "weights"))
  ):
    x, y = tokens[::2, :D], tokens[1::2, D]
    assert not tokens[1::2, :D].any() and not tokens[::2, D].any()
    np.testing.assert_array_equal(targets[:-1:2, 0], y)
    want = [ridge(x[:i], y[:i], x[i], noise) for i in range(len(x))]
    np.testing.assert_allclose(optimum[::2, 0], want, atol=1e-4)
    np.testing.assert_array_equal(weights, np.arange(LENGTH) % 2 == 0)
    assert not targets[1::2].any() and not optimum[1::2].any()


def test_without_noise_as_many_examples_as_dimensions_tell_all():
  batch = rows(Config(num_dims=D), LENGTH)
  missed = np.abs(batch["optimum"] - batch["targets"]).max(axis=(0, 2))
  assert missed[2 * D :].max() < 1e-3 < missed[2 * D - 2]


def test_y_has_variance_1_whatever_the_covariance():
  batch = rows(Config(num_dims=D, condition_number=20.0), 8, number=4000)
  assert abs(np.var(batch["targets"][:, ::2]) - 1) < 0.1
  spread = np.var(batch["inputs"][:, ::2, :D], axis=(0, 1))
  np.testing.assert_allclose(spread[0] / spread[-1], 20, rtol=0.1)


def test_pairs_ask_for_the_last_y_alone():
  config = Config(num_dims=D, noise=0.1, paired=True)
  for tokens, targets, optimum, weights in zip(
    *(rows(config, 9)[k] for k in ("inputs", "targets", "optimum", "weights"))
  ):
    x, y = tokens[:, :D], tokens[:, D]
    np.testing.assert_allclose(
      optimum[-1], ridge(x[:-1], y[:-1], x[-1], 0.1), atol=1e-5
    )
    assert y[-1] == 0 and weights[-1] == 1 and targets[-1] != 0
    assert not any(z[:-1].any() for z in (targets, optimum, weights))


def test_one_step_is_a_step_of_gradient_descent():
  keys, shapes = jax.random.split(jax.random.key(0), 3), ((7, D), (7,), (D,))
  x, y, query = (jax.random.normal(*both) for both in zip(keys, shapes))
  loss = lambda w: jnp.sum((x @ w - y) ** 2) / (2 * len(y))
  step = jnp.arange(1.0, D + 1)
  w = -step * jax.grad(loss)(jnp.zeros(D))
  got = linear_regression.one_step(x, y, query, step)
  np.testing.assert_allclose(got, w @ query, rtol=1e-5)


def test_the_best_step_is_that_of_least_error():
  """Found by least squares of y on the N pairs' mean of y_i x_i, times the query."""
  config = Config(num_dims=D, noise=0.5, condition_number=4.0, paired=True)
  batch = rows(config, 11, number=40_000)
  pairs, query = batch["inputs"][:, :-1], batch["inputs"][:, -1, :D]
  features = np.mean(pairs[..., D:] * pairs[..., :D], axis=1) * query
  fitted, *_ = np.linalg.lstsq(features, batch["targets"][:, -1, 0])
  best = linear_regression.best_step(config, 10)
  np.testing.assert_allclose(fitted, best, rtol=0.1)
  x, y, query = map(jnp.asarray, (pairs[..., :D], pairs[..., D], query))
  got = linear_regression.one_step(x, y, query, best)
  np.testing.assert_allclose(got, features @ np.asarray(best), rtol=1e-3, atol=1e-5)


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match="noise >= 0; got -1"):
    Config(noise=-1.0)
  with pytest.raises(ValueError, match="condition_number >= 1; got 0.5"):
    Config(condition_number=0.5)
  with pytest.raises(ValueError, match="sequence_length >= 1; got 0"):
    linear_regression.batch(jax.random.split(jax.random.key(0), 2), Config(), 0)


def test_the_optimum_can_be_the_best_step():
  config = Config(num_dims=D, noise=0.2, condition_number=5.0, paired=True)
  batch = rows(dataclasses.replace(config, optimum="one_step"), 9)
  for name, values in rows(config, 9).items():
    assert (name != "optimum") == np.array_equal(values, batch[name]), name
  step = np.asarray(linear_regression.best_step(config, 8))
  x, y, query = batch["inputs"][:, :-1, :D], batch["inputs"][:, :-1, D], batch["inputs"]
  w = step * np.einsum("bn,bnd->bd", y, x) / 8
  want = np.sum(w * query[:, -1, :D], axis=1)
  np.testing.assert_allclose(batch["optimum"][:, -1, 0], want, rtol=1e-4, atol=1e-5)
  assert not batch["optimum"][:, :-1].any()
  with pytest.raises(ValueError, match="optimum in .'bayes',.; got 'one_step'"):
    Config(optimum="one_step")
  with pytest.raises(ValueError, match="sequence_length >= 2; got 1"):
    make(
      jax.random.split(jax.random.key(0), 2), Config(paired=True, optimum="one_step"), 1
    )
