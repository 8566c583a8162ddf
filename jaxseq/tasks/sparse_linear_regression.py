"""Sparse linear regression in context (Garg et al. 2022, arXiv:2208.01066).

    inputs   (x1, 0) (0, y1) (x2, 0) (0, y2) ...      y = w . x + noise, and all but s
    targets     y1      .       y2      .    ...      of the d weights are 0

The s places are drawn without repetition, their weights from N(0, 1 / s), so that y has
variance 1; x is N(0, I). The optimum is Bayes': one regression for each of the C(d, s)
sets of places, weighed by how well it has predicted the examples before.
"""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from jaxseq.tasks import checks, prompts

__all__ = ["SparseLinearRegressionConfig", "batch"]

MAX_SUPPORTS = 2048  # C(20, 3) of the authors is 1140.
# The optimum takes less noise for this much: where a support that fits has density
# infinity, float32 could not weigh it.
LEAST_NOISE = 1e-4


@dataclasses.dataclass(frozen=True)
class SparseLinearRegressionConfig:
  """The task.

  Attributes:
    num_dims: d, numbers in an x. The authors take 20.
    num_nonzero: s, those that matter. The authors take 3.
    noise: Standard deviation of the noise in y.
    held_out_examples: Number of sequences evaluated.
  """

  num_dims: int = 8
  num_nonzero: int = 2
  noise: float = 0.0
  held_out_examples: int = 1024

  num_outputs = 1

  def __post_init__(self):
    checks.check_at_least(
      "sparse_linear_regression",
      1,
      num_nonzero=self.num_nonzero,
      held_out_examples=self.held_out_examples,
    )
    checks.check_at_least(
      "sparse_linear_regression", self.num_nonzero, num_dims=self.num_dims
    )
    checks.check_at_least("sparse_linear_regression", 0, noise=self.noise)
    supports = math.comb(self.num_dims, self.num_nonzero)
    if supports > MAX_SUPPORTS:
      raise ValueError(
        f"sparse_linear_regression needs C(num_dims, num_nonzero) <= {MAX_SUPPORTS}, "
        f"for its optimum goes through all of them; got C({self.num_dims}, "
        f"{self.num_nonzero}) = {supports}"
      )

  @property
  def num_inputs(self) -> int:
    return self.num_dims + 1


def example(
  key: PRNGKeyArray, config: SparseLinearRegressionConfig, length: int
) -> dict[str, Array]:
  """One sequence; see `batch`."""
  d, s, n = config.num_dims, config.num_nonzero, prompts.num_examples(length)
  supports = jnp.array(list(itertools.combinations(range(d), s)))
  support_key, w_key, x_key, noise_key = jax.random.split(key, 4)
  places = jax.random.choice(support_key, supports)
  w = jax.random.normal(w_key, (s,)) * s**-0.5
  x = jax.random.normal(x_key, (n, d))
  noise = config.noise * jax.random.normal(noise_key, (n,))
  y = jnp.sum(x[:, places] * w, axis=1) + noise

  least = max(config.noise, LEAST_NOISE)
  regression = lambda places: prompts.bayesian_regression(
    x[:, places], y, s**-0.5, least
  )
  mean, variance = jax.vmap(regression)(supports)  # [supports, n]
  variance += least**2
  log_density = -((y - mean) ** 2 / variance + jnp.log(variance)) / 2
  return prompts.alternate(x, y, prompts.posterior_mean(log_density, mean), length)


def batch(
  keys: PRNGKeyArray, config: SparseLinearRegressionConfig, length: int
) -> dict[str, Array]:
  """Sequences of the task, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The task.
    length: T, for T / 2 examples, at least 1.

  Returns:
    A batch of `data`: inputs [B, T, d + 1], targets and optimum [B, T, 1], weights and
    segment_ids [B, T].

  Raises:
    ValueError: If there would be no token.
  """
  checks.check_at_least("sparse_linear_regression", 1, sequence_length=length)
  return jax.vmap(lambda key: example(key, config, length))(keys)
