"""In-context linear regression (Garg et al. 2022, arXiv:2208.01066).

    inputs   (x1, 0) (0, y1) (x2, 0) (0, y2) ...      y = w . x + noise, w anew for
    targets     y1      .       y2      .    ...      each sequence

Weights are N(0, I / d), inputs N(0, L), where L is diagonal and tr L = d: w . x has
variance 1, where the authors' has d. The optimum is its mean given the examples before.

A single layer of linear attention cannot tell which y follows which x. For claims about
it, the prompt may be that of Zhang et al. (2023, arXiv:2306.09927):

    inputs   (x1, y1) (x2, y2) ... (xN, yN) (x, 0)
    targets     .        .            .       y

Then the optimum can be the best single step of gradient descent, where trained linear
attention ends, so that the metric is the distance to it.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxseq.tasks import checks, prompts

__all__ = ["LinearRegressionConfig", "batch", "best_step", "covariance", "one_step"]


@dataclasses.dataclass(frozen=True)
class LinearRegressionConfig:
  """The task.

  Attributes:
    num_dims: d, numbers in an x. The authors take 20.
    noise: Standard deviation of the noise in y.
    condition_number: Of L, whose eigenvalues fall geometrically; 1 makes it I.
    paired: Whether a token is an example, and only the last y is asked for.
    optimum: "bayes"; or if paired, "one_step", what the best step predicts.
    held_out_examples: Number of sequences evaluated.
  """

  num_dims: int = 8
  noise: float = 0.0
  condition_number: float = 1.0
  paired: bool = False
  optimum: str = "bayes"
  held_out_examples: int = 1024

  num_outputs = 1

  def __post_init__(self):
    checks.check_at_least(
      "linear_regression",
      1,
      num_dims=self.num_dims,
      condition_number=self.condition_number,
      held_out_examples=self.held_out_examples,
    )
    checks.check_at_least("linear_regression", 0, noise=self.noise)
    kinds = ("bayes", "one_step") if self.paired else ("bayes",)
    checks.check_one_of("linear_regression", kinds, optimum=self.optimum)

  @property
  def num_inputs(self) -> int:
    return self.num_dims + 1


def covariance(config: LinearRegressionConfig) -> Float[Array, " D"]:
  """The diagonal of L."""
  diagonal = jnp.geomspace(config.condition_number, 1, config.num_dims)
  return diagonal / diagonal.mean()


def one_step(
  x: Float[Array, "*B N D"],
  y: Float[Array, "*B N"],
  query: Float[Array, "*B D"],
  step: Float[Array, "#D"],
) -> Float[Array, "*B"]:
  """What one step of gradient descent from w = 0 predicts at the query.

      w = step * 1/N sum_i y_i x_i         the loss is 1/2N sum_i (w . x_i - y_i)^2

  A layer of linear attention can do it (von Oswald et al. 2022, arXiv:2212.07677),
  with a step for each axis if its products are preconditioned.
  """
  w = step * jnp.mean(y[..., None] * x, axis=-2)
  return jnp.sum(w * query, axis=-1)


def best_step(config: LinearRegressionConfig, num_examples: int) -> Float[Array, " D"]:
  """The steps of least expected error at N examples, where trained attention ends.

      step = 1 / ((1 + 1/N) L + (tr L + d noise^2) / N)

  This is the inverse of Gamma of Zhang et al. (arXiv:2306.09927), to which
  noise adds its share of the variance of y.
  """
  L, N = covariance(config), num_examples
  return 1 / ((1 + 1 / N) * L + config.num_dims * (1 + config.noise**2) / N)


def example(
  key: PRNGKeyArray, config: LinearRegressionConfig, length: int
) -> dict[str, Array]:
  """One sequence; see `batch`."""
  d = config.num_dims
  n = length if config.paired else prompts.num_examples(length)
  w_key, x_key, noise_key = jax.random.split(key, 3)
  w = jax.random.normal(w_key, (d,)) * d**-0.5
  x = jax.random.normal(x_key, (n, d)) * jnp.sqrt(covariance(config))
  y = jnp.sum(x * w, axis=1) + config.noise * jax.random.normal(noise_key, (n,))
  optimum, _ = prompts.bayesian_regression(x, y, d**-0.5, config.noise)
  if not config.paired:
    return prompts.alternate(x, y, optimum, length)
  if config.optimum == "one_step":
    optimum = one_step(x[:-1], y[:-1], x[-1], best_step(config, n - 1))
  last = (jnp.arange(length) == length - 1).astype(jnp.float32)
  return dict(
    inputs=jnp.concatenate([x, (y * (1 - last))[:, None]], axis=1),
    targets=(y * last)[:, None],
    weights=last,
    segment_ids=jnp.ones(length, jnp.int32),
    optimum=(optimum * last)[:, None],
  )


def batch(
  keys: PRNGKeyArray, config: LinearRegressionConfig, length: int
) -> dict[str, Array]:
  """Sequences of the task, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The task.
    length: T: T / 2 examples, or T - 1 and a query if they are paired. At least 1,
      or 2 for a step.

  Returns:
    A batch of `data`: inputs [B, T, d + 1], targets and optimum [B, T, 1], weights and
    segment_ids [B, T].

  Raises:
    ValueError: If there would be no token, or no example to step with.
  """
  least = 2 if config.optimum == "one_step" else 1
  checks.check_at_least("linear_regression", least, sequence_length=length)
  return jax.vmap(lambda key: example(key, config, length))(keys)
