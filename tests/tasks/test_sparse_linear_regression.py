import itertools

import jax
import numpy as np
import pytest

from jaxseq.tasks import sparse_linear_regression

D, S, LENGTH = 5, 2, 20
Config = sparse_linear_regression.SparseLinearRegressionConfig
make = jax.jit(sparse_linear_regression.batch, static_argnums=(1, 2))


def bayes(x, y, query, noise):
  """Weighs each support by the density it gives to all of y at once."""
  log_density, predictions = [], []
  for support in itertools.combinations(range(D), S):
    z = x[:, support]
    if noise == 0 and len(y) > S:  # It fits or it does not; if so, it is the only one.
      w, *_ = np.linalg.lstsq(z, y)
      log_density.append(0 if np.abs(z @ w - y).max() < 1e-5 else -np.inf)
    else:
      covariance = z @ z.T / S + noise**2 * np.eye(len(y))
      w = z.T @ np.linalg.solve(covariance, y) / S
      log_density.append(
        -(y @ np.linalg.solve(covariance, y) + np.linalg.slogdet(covariance)[1]) / 2
      )
    predictions.append(w @ query[list(support)])
  p = np.exp(np.array(log_density) - max(log_density))
  return p @ predictions / p.sum()


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_the_optimum_is_the_posterior_mean_over_all_supports(noise):
  keys = jax.random.split(jax.random.key(0), 20)
  batch = make(keys, Config(num_dims=D, num_nonzero=S, noise=noise), LENGTH)
  batch = jax.tree.map(lambda x: np.asarray(x, np.float64), batch)
  for tokens, targets, optimum in zip(
    batch["inputs"], batch["targets"], batch["optimum"]
  ):
    x, y = tokens[::2, :D], tokens[1::2, D]
    want = [bayes(x[:i], y[:i], x[i], noise) for i in range(len(x))]
    np.testing.assert_allclose(optimum[::2, 0], want, atol=2e-3)
    np.testing.assert_array_equal(targets[::2, 0], y)
    w, *_ = np.linalg.lstsq(x, y)
    if noise == 0:
      assert np.sum(np.abs(w) > 1e-3) == S
  assert (batch["weights"] == (np.arange(LENGTH) % 2 == 0)).all()


def test_too_many_supports_are_refused():
  Config(num_dims=20, num_nonzero=3)  # The paper's.
  with pytest.raises(ValueError, match=r"C\(20, 4\) = 4845"):
    Config(num_dims=20, num_nonzero=4)
  with pytest.raises(ValueError, match="num_dims >= 3; got 2"):
    Config(num_dims=2, num_nonzero=3)
  with pytest.raises(ValueError, match="sequence_length >= 1; got 0"):
    make(jax.random.split(jax.random.key(0), 2), Config(), 0)
