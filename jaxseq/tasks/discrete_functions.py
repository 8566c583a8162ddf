"""Boolean functions in context (Bhattamishra et al. 2023, arXiv:2310.03016).

    inputs   (x1, 0) (0, y1) (x2, 0) (0, y2) ...      x in {-1, 1}^d, y = 1 or -1,
    targets     y1      .       y2      .    ...      y = f(x), f anew each time

Prompts are of vectors, as the authors' are, so the task is to predict numbers, and the
optimum is the mean of y given its x and the examples before: Bayes' rule over all f of
the family. That is why d is small. Families are as in the authors' code. A literal is
x_i (w_i = 1) or its negation (w_i = -1).

    conjunction     all literals hold; a w_i is 1, -1 with probability 0.15 each, else 0
    disjunction     one literal or more holds
    threshold       w . x > b, where b = -2.5, -1.5 ... 2.5 with one probability
    majority        w . x > 0.5, where a w_i is 1 with probability 0.3, else 0
    halfspace       w . x > 0.5, where a w_i is one of -3 ... 3
    parity          an odd number of the x_i with w_i = 1 is 1; each w_i is 0 or 1
    sparse_parity   the same, with two w_i = 1

x is uniform, but for conjunctions and disjunctions, where a share of 0.3 of them is set
to satisfy, or to falsify, all literals; so an x tells of f too, and the optimum knows.
Their DNF and CNF of three clauses are left out: there are 27^d.
"""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxseq.tasks import checks, prompts

__all__ = ["DiscreteFunctionsConfig", "batch"]

MAX_WEIGHTS = 8192
FORCED = 0.3  # Share of the x that have the rarer answer of a conjunction.

# The values of a w_i, and their probabilities.
WEIGHTS = {
  **dict.fromkeys(
    ("conjunction", "disjunction", "threshold"), {0: 0.7, 1: 0.15, -1: 0.15}
  ),
  "majority": {0: 0.7, 1: 0.3},
  "halfspace": dict.fromkeys(range(-3, 4), 1 / 7),
  "parity": {0: 0.5, 1: 0.5},
  "sparse_parity": {0: 0.5, 1: 0.5},  # Given that two are 1.
}


@dataclasses.dataclass(frozen=True)
class DiscreteFunctionsConfig:
  """The task.

  Attributes:
    family: Of the functions, a key of `WEIGHTS`.
    num_bits: d.
    held_out_examples: Number of sequences evaluated.
  """

  family: str = "conjunction"
  num_bits: int = 6
  held_out_examples: int = 1024

  num_outputs = 1

  def __post_init__(self):
    if self.family not in WEIGHTS:
      raise ValueError(
        f"discrete_functions needs a family of {list(WEIGHTS)}; got {self.family!r}"
      )
    d = self.num_bits
    checks.check_at_least("discrete_functions", 2, num_bits=d)
    checks.check_at_least(
      "discrete_functions", 1, held_out_examples=self.held_out_examples
    )
    sparse = self.family == "sparse_parity"
    number = math.comb(d, 2) if sparse else len(WEIGHTS[self.family]) ** d
    if number > MAX_WEIGHTS:
      raise ValueError(
        f"discrete_functions needs at most {MAX_WEIGHTS} weights w, for its optimum "
        f"goes through all of them; got {self.family} of {d} bits, which has {number}"
      )

  @property
  def num_inputs(self) -> int:
    return self.num_bits + 1


def functions(
  config: DiscreteFunctionsConfig,
) -> tuple[Float[Array, "F D"], Float[Array, " F"], Float[Array, " F"]]:
  """The weights, bounds b and log probabilities of the family's functions."""
  values, d = WEIGHTS[config.family], config.num_bits
  if config.family == "sparse_parity":
    w = np.array([a + b for a, b in itertools.combinations(np.eye(d), 2)])
  else:
    w = np.array(list(itertools.product(values, repeat=d)))
  log_p = np.log(np.vectorize(values.get)(w)).sum(axis=1)
  literals = np.abs(w).sum(axis=1)
  bound = np.full(len(w), 0.5)
  if config.family == "conjunction":
    bound = literals - 1
  elif config.family == "disjunction":
    bound = 1 - literals
  elif config.family == "threshold":
    bounds = np.arange(-2.5, 3)
    w, log_p = (np.repeat(z, len(bounds), axis=0) for z in (w, log_p))
    bound = np.tile(bounds, len(literals))
  return tuple(jnp.array(z, jnp.float32) for z in (w, bound, log_p))


def example(
  key: PRNGKeyArray, config: DiscreteFunctionsConfig, length: int
) -> dict[str, Array]:
  """One sequence; see `batch`."""
  n = prompts.num_examples(length)
  w, bound, log_p = functions(config)
  literals = jnp.abs(w).sum(axis=1)
  f_key, x_key, forced_key = jax.random.split(key, 3)
  f = jax.random.categorical(f_key, log_p)
  x = jax.random.rademacher(x_key, (n, config.num_bits), jnp.float32)
  answer = dict(conjunction=1, disjunction=-1).get(config.family)  # The rarer one.
  if answer:
    forced = jax.random.bernoulli(forced_key, FORCED, (n, 1))
    x = jnp.where(forced & (w[f] != 0), answer * w[f], x)

  def step(log_p, x):
    """log_p: of each function given the examples before."""
    sums = w @ x
    if config.family.endswith("parity"):
      ys = 2 * ((sums + literals) / 2 % 2) - 1
    else:
      ys = jnp.where(sums > bound, 1.0, -1.0)
    if answer:  # p(x | f), of which 2^-d is left out.
      log_p += jnp.log(1 - FORCED + FORCED * jnp.where(ys == answer, 2**literals, 0))
    mean = jnp.sum(jax.nn.softmax(log_p) * ys)
    return jnp.where(ys == ys[f], log_p, -jnp.inf), (ys[f], mean)

  _, (y, optimum) = jax.lax.scan(step, log_p, x)
  return prompts.alternate(x, y, optimum, length)


def batch(
  keys: PRNGKeyArray, config: DiscreteFunctionsConfig, length: int
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
  checks.check_at_least("discrete_functions", 1, sequence_length=length)
  return jax.vmap(lambda key: example(key, config, length))(keys)
