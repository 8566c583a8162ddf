"""Prompts of examples, and what is best predicted from them by linear regression.

    inputs   (x1, 0) (0, y1) (x2, 0) (0, y2) ...      (Garg et al. 2022,
    targets     y1      .       y2      .    ...       arXiv:2208.01066)

An example takes two tokens, so that a causal mixer predicts each y from its x and the
examples before. Only places of an x count.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["alternate", "bayesian_regression", "num_examples", "posterior_mean"]

NO_NEWS = 1e-5  # A smaller share of an x outside the span of those before is rounding.


def num_examples(length: int) -> int:
  """Examples of a prompt; if the length is odd the last one's y is left out."""
  return (length + 1) // 2


def alternate(
  x: Float[Array, "n D"],
  y: Float[Array, " n"],
  optimum: Float[Array, " n"],
  length: int,
) -> dict[str, Array]:
  """The prompt of `num_examples(length)` examples, one row of a batch of `data`."""
  n, D = x.shape
  tokens = [jnp.pad(x, ((0, 0), (0, 1))), jnp.pad(y[:, None], ((0, 0), (D, 0)))]
  at_x = lambda z: jnp.stack([z, jnp.zeros_like(z)], axis=1).reshape(-1)[:length]
  return dict(
    inputs=jnp.stack(tokens, axis=1).reshape(2 * n, D + 1)[:length],
    targets=at_x(y)[:, None],
    weights=at_x(jnp.ones(n)),
    segment_ids=jnp.ones(length, jnp.int32),
    optimum=at_x(optimum)[:, None],
  )


def bayesian_regression(
  x: Float[Array, "n D"], y: Float[Array, " n"], prior: float, noise: float
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
  """Means and variances of each w . x, given the examples before it.

  For w ~ N(0, prior^2 I) and y ~ N(w . x, noise^2) the means are ridge regression, and
  without noise the least squares of least norm. The covariance of w is S S^T, and each
  example updates its root S (Potter's form of the Kalman filter): without noise that is
  a projection, accurate where normal equations are singular.
  """

  def step(carry, example):
    w, S = carry
    x, y = example
    f = S.T @ x
    mean, variance = w @ x, f @ f
    news = variance + noise**2 > (NO_NEWS * prior) ** 2 * (x @ x)
    total = jnp.where(news, variance + noise**2, 1)
    gain = jnp.where(news, S @ f / total, 0)
    S -= jnp.outer(gain, f) / (1 + noise / jnp.sqrt(total))
    return (w + gain * (y - mean), S), (mean, variance)

  D = x.shape[1]
  with jax.default_matmul_precision("highest"):
    _, predictions = jax.lax.scan(step, (jnp.zeros(D), prior * jnp.eye(D)), (x, y))
  return predictions


def posterior_mean(
  log_density: Float[Array, "M n"], mean: Float[Array, "M n"]
) -> Float[Array, " n"]:
  """Bayes' mean of each y, where one of M models made all of them, each as likely.

  Args:
    log_density: Of each y, by each model given the examples before.
    mean: Of each y, likewise.
  """
  before = jnp.pad(jnp.cumsum(log_density, axis=1)[:, :-1], ((0, 0), (1, 0)))
  return jnp.sum(jax.nn.softmax(before, axis=0) * mean, axis=0)
