"""A mixture of linear regressions in context (Pathak et al. 2023, arXiv:2311.08362).

    inputs   (x1, 0) (0, y1) (x2, 0) (0, y2) ...      y = w_j . x + noise, j anew for
    targets     y1      .       y2      .    ...      each sequence

There are only m weights w_j, the same in all sequences, which a model can come to know.
They are drawn from N(0, I / d), so that y has variance about 1; x is N(0, I). The
optimum weighs all components by how well they have predicted the examples before,

    sum_j p_j w_j . x,      p_j ~ exp(-sum_i (y_i - w_j . x_i)^2 / (2 noise^2))
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxseq.tasks import checks, prompts

__all__ = ["RegressionMixtureConfig", "batch", "components"]


@dataclasses.dataclass(frozen=True)
class RegressionMixtureConfig:
  """The task.

  Attributes:
    num_dims: d, numbers in an x.
    num_components: m.
    noise: Standard deviation of the noise in y.
    seed: Of the components.
    held_out_examples: Number of sequences evaluated.
  """

  num_dims: int = 8
  num_components: int = 8
  noise: float = 0.5
  seed: int = 0
  held_out_examples: int = 1024

  num_outputs = 1

  def __post_init__(self):
    checks.check_at_least(
      "regression_mixture",
      1,
      num_dims=self.num_dims,
      num_components=self.num_components,
      held_out_examples=self.held_out_examples,
    )
    if self.noise <= 0:
      raise ValueError(f"regression_mixture needs noise > 0; got {self.noise}")

  @property
  def num_inputs(self) -> int:
    return self.num_dims + 1


def components(config: RegressionMixtureConfig) -> Float[Array, "m D"]:
  """The weights w_j."""
  m, d = config.num_components, config.num_dims
  return jax.random.normal(jax.random.key(config.seed), (m, d)) * d**-0.5


def example(
  key: PRNGKeyArray, config: RegressionMixtureConfig, length: int
) -> dict[str, Array]:
  """One sequence; see `batch`."""
  n = prompts.num_examples(length)
  component_key, x_key, noise_key = jax.random.split(key, 3)
  x = jax.random.normal(x_key, (n, config.num_dims))
  means = jnp.einsum("md,nd->mn", components(config), x, precision="highest")
  j = jax.random.randint(component_key, (), 0, config.num_components)
  y = means[j] + config.noise * jax.random.normal(noise_key, (n,))
  log_density = -((y - means) ** 2) / (2 * config.noise**2)
  return prompts.alternate(x, y, prompts.posterior_mean(log_density, means), length)


def batch(
  keys: PRNGKeyArray, config: RegressionMixtureConfig, length: int
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
  checks.check_at_least("regression_mixture", 1, sequence_length=length)
  return jax.vmap(lambda key: example(key, config, length))(keys)
