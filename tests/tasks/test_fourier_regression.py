import jax
import numpy as np
import pytest

from jaxseq.tasks import fourier_regression

Config = fourier_regression.FourierRegressionConfig
make = jax.jit(fourier_regression.batch, static_argnums=(1, 2))


def kernel(a, b, K):
  """Covariance of f(a) and f(b): the cosines and sines of a frequency add up."""
  apart = a[:, None] - b
  return sum(np.cos(np.pi * k * apart) for k in range(K + 1)) / (K + 1)


@pytest.mark.parametrize("K, noise", [(2, 0.1), (4, 0.01)])
def test_the_optimum_is_a_gaussian_process_on_the_examples_before(K, noise):
  keys = jax.random.split(jax.random.key(0), 20)
  batch = make(keys, Config(max_frequency=K, noise=noise), 40)
  batch = jax.tree.map(lambda x: np.asarray(x, np.float64), batch)
  for tokens, targets, optimum in zip(
    batch["inputs"], batch["targets"], batch["optimum"]
  ):
    x, y = tokens[::2, 0], tokens[1::2, 1]
    want = []
    for i in range(len(x)):
      covariance = kernel(x[:i], x[:i], K) + noise**2 * np.eye(i)
      want.append(kernel(x[i : i + 1], x[:i], K) @ np.linalg.solve(covariance, y[:i]))
    np.testing.assert_allclose(optimum[::2], want, atol=1e-3)
    np.testing.assert_array_equal(targets[::2, 0], y)
    assert np.abs(x).max() <= 1
  missed = np.abs(batch["optimum"] - batch["targets"])[:, 20::2]
  assert noise / 4 < np.median(missed) < 4 * noise  # More examples than waves.
  assert (batch["weights"] == (np.arange(40) % 2 == 0)).all()


def test_y_has_variance_1():
  batch = make(jax.random.split(jax.random.key(0), 4000), Config(), 4)
  assert abs(np.var(batch["targets"][:, ::2]) - 1) < 0.1


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match="noise >= 0.001; got 0"):
    Config(noise=0.0)
  with pytest.raises(ValueError, match="max_frequency >= 1; got 0"):
    Config(max_frequency=0)
  with pytest.raises(ValueError, match="sequence_length >= 1; got 0"):
    make(jax.random.split(jax.random.key(0), 2), Config(), 0)
