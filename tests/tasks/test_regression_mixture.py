import jax
import numpy as np
import pytest

from jaxseq.tasks import regression_mixture

D, LENGTH = 3, 21
Config = regression_mixture.RegressionMixtureConfig
make = jax.jit(regression_mixture.batch, static_argnums=(1, 2))


def test_the_optimum_weighs_the_components_by_the_examples_before():
  config = Config(num_dims=D, num_components=4, noise=0.3, seed=1)
  w = np.asarray(regression_mixture.components(config), np.float64)
  batch = make(jax.random.split(jax.random.key(0), 50), config, LENGTH)
  batch = jax.tree.map(lambda x: np.asarray(x, np.float64), batch)
  nearest = set()
  for tokens, targets, optimum in zip(
    batch["inputs"], batch["targets"], batch["optimum"]
  ):
    x, y = tokens[::2, :D], tokens[1::2, D]
    np.testing.assert_array_equal(targets[:-1:2, 0], y)
    for i, query in enumerate(x):
      density = np.ones(4)
      for past, answer in zip(x[:i], y[:i]):
        density *= np.exp(-((answer - w @ past) ** 2) / (2 * 0.3**2))
      want = density @ (w @ query) / density.sum()
      np.testing.assert_allclose(optimum[2 * i, 0], want, atol=1e-4)
    errors = np.sum((y - w @ x[:-1].T) ** 2, axis=1)
    assert errors.min() < 3 * 0.3**2 * len(y)  # One of them has written this row.
    nearest.add(errors.argmin())
  assert nearest == {0, 1, 2, 3}


def test_the_components_are_the_same_for_all_keys():
  a, b, c = (regression_mixture.components(Config(seed=seed)) for seed in (0, 0, 1))
  np.testing.assert_array_equal(a, b)
  assert np.abs(a - c).max() > 0.1


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match="noise > 0; got 0"):
    Config(noise=0.0)
  with pytest.raises(ValueError, match="num_components >= 1; got 0"):
    Config(num_components=0)
  with pytest.raises(ValueError, match="sequence_length >= 1; got 0"):
    make(jax.random.split(jax.random.key(0), 2), Config(), 0)
