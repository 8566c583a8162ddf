"""Fourier series in context (Panwar et al. 2023, arXiv:2306.04891).

    inputs   (x1, 0) (0, y1) (x2, 0) (0, y2) ...      y = f(x) + noise, f anew for each
    targets     y1      .       y2      .    ...      sequence

    f(x) = a_0 + sum_k a_k cos(pi k x) + b_k sin(pi k x),     k = 1 ... K

x is uniform in (-1, 1), a whole period; the authors' code draws it from (-5, 5), with
pi k / 5. All coefficients are N(0, 1 / (K + 1)), so that f(x) has variance 1. The
optimum is the mean of f(x) given the examples before: Bayes' linear regression on the
2 K + 1 waves, which the mixer has to find.

There is always noise: a wave told apart from others by close points alone would be lost
in the rounding of y.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxseq.tasks import checks, prompts

__all__ = ["FourierRegressionConfig", "batch", "waves"]

LEAST_NOISE = 1e-3


@dataclasses.dataclass(frozen=True)
class FourierRegressionConfig:
  """The task.

  Attributes:
    max_frequency: K, periods of the fastest wave. The authors take 10.
    noise: Standard deviation of the noise in y.
    held_out_examples: Number of sequences evaluated.
  """

  max_frequency: int = 3
  noise: float = 0.1
  held_out_examples: int = 1024

  num_inputs = 2
  num_outputs = 1

  def __post_init__(self):
    checks.check_at_least(
      "fourier_regression",
      1,
      max_frequency=self.max_frequency,
      held_out_examples=self.held_out_examples,
    )
    checks.check_at_least("fourier_regression", LEAST_NOISE, noise=self.noise)


def waves(x: Float[Array, " n"], max_frequency: int) -> Float[Array, "n K"]:
  """1, the cosines and the sines at each x."""
  angle = jnp.pi * x[:, None] * jnp.arange(max_frequency + 1)
  return jnp.concatenate([jnp.cos(angle), jnp.sin(angle[:, 1:])], axis=1)


def example(
  key: PRNGKeyArray, config: FourierRegressionConfig, length: int
) -> dict[str, Array]:
  """One sequence; see `batch`."""
  K, n = config.max_frequency, prompts.num_examples(length)
  prior = (K + 1) ** -0.5
  w_key, x_key, noise_key = jax.random.split(key, 3)
  w = prior * jax.random.normal(w_key, (2 * K + 1,))
  x = jax.random.uniform(x_key, (n,), minval=-1)
  basis = waves(x, K)
  noise = config.noise * jax.random.normal(noise_key, (n,))
  y = jnp.sum(basis * w, axis=1) + noise
  optimum, _ = prompts.bayesian_regression(basis, y, prior, config.noise)
  return prompts.alternate(x[:, None], y, optimum, length)


def batch(
  keys: PRNGKeyArray, config: FourierRegressionConfig, length: int
) -> dict[str, Array]:
  """Sequences of the task, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The task.
    length: T, for T / 2 examples, at least 1.

  Returns:
    A batch of `data`: inputs [B, T, 2], targets and optimum [B, T, 1], weights and
    segment_ids [B, T].

  Raises:
    ValueError: If there would be no token.
  """
  checks.check_at_least("fourier_regression", 1, sequence_length=length)
  return jax.vmap(lambda key: example(key, config, length))(keys)
