"""Regular languages: what may follow (Bhattamishra et al. 2020, arXiv:2009.11264).

    inputs   1  0      1  0      1  1  0    (10)*, with a mistake at the sixth token
    follows  0  1 end  0  1 end  0  -  -
    targets  1  6      1  6      1  0  0    1 for 0, + 2 for 1, + 4 for the end

At each token the class is the set of what may follow: symbols after which the string is
still the beginning of a word of the language, and the end if it is a word itself.

  - Tomita's seven languages over 0 and 1. 1: 1*. 2: (10)*. 3: an odd number of ones is
    never followed by an odd number of zeros. 4: no three zeros. 5: even numbers of
    zeros and of ones. 6: their difference is a multiple of 3. 7: 0*1*0*1*.
  - D_n = (a D_{n-1} b)*, star-free: brackets of one kind, at most n open; a is id 0.

The authors draw words only, which leaves little to be said of 1, 2 and 7. Here each
string goes wrong once it is past a random place, if the language has wrong strings;
from then on nothing may follow, for half of the tokens in the long run. Before, symbols
that may follow are drawn with equal odds. The automaton's long run also says how often
each class is right; of the frequent classes just so many places count, at random, that
all count equally often. So chance is one divided by the number of classes.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from jaxseq.tasks import checks

__all__ = ["StarFreeConfig", "TomitaConfig", "batch"]

# By state: the next one after 0 and after 1, -1 if there is none, and if it is the end.
TOMITA = (
  ((-1, 0, 1),),
  ((-1, 1, 1), (0, -1, 0)),
  ((0, 1, 1), (3, 0, 1), (3, 1, 1), (2, -1, 0)),
  ((1, 0, 1), (2, 0, 1), (-1, 0, 1)),
  ((2, 1, 1), (3, 0, 0), (0, 3, 0), (1, 2, 0)),
  ((1, 2, 1), (2, 0, 0), (0, 1, 0)),
  ((0, 1, 1), (2, 1, 1), (2, 3, 1), (-1, 3, 1)),
)


@dataclasses.dataclass(frozen=True)
class RegularConfig:
  """A regular language; a class for each family gives its `states`, as above.

  Attributes:
    held_out_examples: Number of sequences evaluated.
  """

  held_out_examples: int = dataclasses.field(default=1024, kw_only=True)

  vocab_size = 8
  least_length = 1

  @property
  def automaton(self) -> np.ndarray:
    """`states`, and a last one, -1, that the string has gone wrong."""
    return np.array([*self.states, (-1, -1, 0)])

  @property
  def classes(self) -> np.ndarray:
    """Of each state."""
    return (self.automaton >= [0, 0, 1]) @ [1, 2, 4]

  @functools.cached_property
  def frequencies(self) -> np.ndarray:
    """Of each class in the long run, [8]."""
    follows = self.automaton[:-1, :2]
    odds = (follows[..., None] == np.arange(len(follows))).sum(1).astype(float)
    odds /= odds.sum(1, keepdims=True)
    # Half of the steps are left out, so that an automaton that alternates settles.
    settled = np.linalg.matrix_power((odds + np.eye(len(odds))) / 2, 2**20)[0]
    can_go_wrong = (follows < 0).any()
    states = np.append(settled, 1) / 2 if can_go_wrong else np.append(settled, 0)
    found = np.bincount(self.classes, states, minlength=8)
    return np.where(found > 1e-9, found, 0)

  @property
  def chance(self) -> float:
    return 1 / np.count_nonzero(self.frequencies)

  def __post_init__(self):
    checks.check_at_least(
      "a regular language", 1, held_out_examples=self.held_out_examples
    )


@dataclasses.dataclass(frozen=True)
class TomitaConfig(RegularConfig):
  """One of Tomita's languages.

  Attributes:
    language: 1 to 7. 3, 5 and 6 are not star-free.
  """

  language: int = 3

  @property
  def states(self) -> tuple:
    return TOMITA[self.language - 1]

  def __post_init__(self):
    super().__post_init__()
    if not 1 <= self.language <= 7:
      raise ValueError(f"tomita needs a language from 1 to 7; got {self.language}")


@dataclasses.dataclass(frozen=True)
class StarFreeConfig(RegularConfig):
  """D_n.

  Attributes:
    depth: n; the authors take 2, 4 and 12. Strings need some n^2 tokens to reach it.
  """

  depth: int = 4

  @property
  def least_length(self) -> int:
    return self.depth**2

  @property
  def states(self) -> tuple:
    n = self.depth
    return tuple((d + 1 if d < n else -1, d - 1, int(d == 0)) for d in range(n + 1))

  def __post_init__(self):
    super().__post_init__()
    checks.check_at_least("star_free", 1, depth=self.depth)


def example(
  key: PRNGKeyArray, config: RegularConfig, length: int
) -> dict[str, Int[Array, "T"]]:
  """One sequence; see `batch`."""
  wrong_key, coins_key, counts_key = jax.random.split(key, 3)
  follows = jnp.array(config.automaton[:, :2])
  wrong = jnp.arange(length) >= jax.random.randint(wrong_key, (), 0, length + 1)
  coins = jax.random.randint(coins_key, (length,), 0, 2)

  def step(state, drawn):
    wrong, coin = drawn
    zero, one = follows[state] >= 0
    symbol = jnp.where(zero == one, coin, jnp.where(wrong, zero, one))
    state = follows[state, symbol]
    return state, (symbol, state)

  _, (string, states) = jax.lax.scan(step, jnp.zeros((), jnp.int32), (wrong, coins))
  targets = jnp.array(config.classes, jnp.int32)[states]
  seen = config.frequencies
  keep = np.min(seen[seen > 0]) / np.maximum(seen, np.min(seen[seen > 0]))
  counts = jax.random.bernoulli(counts_key, jnp.array(keep)[targets])
  return dict(
    inputs=string.astype(jnp.int32),
    targets=jnp.where(counts, targets, 0),
    weights=counts.astype(jnp.float32),
    segment_ids=jnp.ones(length, jnp.int32),
  )


def batch(
  keys: PRNGKeyArray, config: RegularConfig, length: int
) -> dict[str, Int[Array, "B T"]]:
  """Sequences of the task, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The language.
    length: T, at least 1, or the square of the depth.

  Returns:
    A batch of `data`: inputs, targets, weights (float32) and segment_ids, all [B, T].

  Raises:
    ValueError: If there would be no token, or few strings would reach their depth.
  """
  least = config.least_length
  checks.check_at_least("a regular language", least, sequence_length=length)
  return jax.vmap(lambda key: example(key, config, length))(keys)
