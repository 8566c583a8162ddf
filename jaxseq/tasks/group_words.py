"""Word problems of groups (Merrill et al. 2024, arXiv:2404.08819).

    inputs   x1  x2     x3          elements of a group, drawn evenly; T = 3
    targets  x1  x2 x1  x3 x2 x1    the product so far, as a state would be updated

(S3, A5 and S5 as in Siems et al. 2025, "DeltaProduct", arXiv:2502.10297.) Composition
is of functions: in x2 x1 the permutation x1 acts first, (x2 x1)(i) = x2(x1(i)). Element
0 is the identity, the others follow in the lexicographic order of their values. A
mixer in TC0 cannot do A5 and S5 at all lengths, unless TC0 = NC1; Z_n it can.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from jaxseq.tasks import checks

__all__ = [
  "A5Config",
  "ModularAdditionConfig",
  "PermutationsConfig",
  "S3Config",
  "S5Config",
  "batch",
]


@functools.cache
def permutations(degree: int, even: bool) -> np.ndarray:
  """The elements [G, degree] of the symmetric or the alternating group."""
  every = np.array(list(itertools.permutations(range(degree))))
  later, sooner = np.triu_indices(degree, 1)
  inversions = np.sum(every[:, later] > every[:, sooner], axis=1)
  return every[inversions % 2 == 0] if even else every


@functools.cache
def permutation_table(degree: int, even: bool) -> np.ndarray:
  """The id of x y at [x, y], [G, G]."""
  elements = permutations(degree, even)
  products = elements[:, elements]  # [G, G, degree], x[y[i]].
  digits = degree ** np.arange(degree)
  return np.searchsorted(elements @ digits[::-1], products @ digits[::-1])


@dataclasses.dataclass(frozen=True)
class ModularAdditionConfig:
  """Z_n, the sum modulo n.

  Attributes:
    modulus: n.
    held_out_examples: Number of sequences evaluated.
  """

  modulus: int = 5
  held_out_examples: int = 1024

  @property
  def vocab_size(self) -> int:
    return self.modulus

  @property
  def chance(self) -> float:
    return 1 / self.modulus

  @property
  def table(self) -> np.ndarray:
    return np.add.outer(*[np.arange(self.modulus)] * 2) % self.modulus

  @property
  def words(self) -> np.ndarray:
    return np.arange(self.modulus)

  def __post_init__(self):
    checks.check_at_least(
      "modular_addition", 1, held_out_examples=self.held_out_examples
    )
    checks.check_at_least("modular_addition", 2, modulus=self.modulus)


@dataclasses.dataclass(frozen=True)
class PermutationsConfig:
  """A group of permutations; a class for each has its `degree` and if it is `even`.

  Attributes:
    most_moved: No input moves more points than this: 2 leaves the identity and swaps,
      3 also cycles of three (Grazzi et al. 2024, arXiv:2411.12537), 5 everything. Below
      that, all products are equally likely, as `chance` has it, in the long run only.
    held_out_examples: Number of sequences evaluated.
  """

  most_moved: int = 5
  held_out_examples: int = 1024

  degree, even = 3, False

  @property
  def vocab_size(self) -> int:
    return len(self.table)

  @property
  def chance(self) -> float:
    return 1 / self.vocab_size

  @property
  def table(self) -> np.ndarray:
    return permutation_table(self.degree, self.even)

  @property
  def words(self) -> np.ndarray:
    """The ids that are inputs."""
    moved = permutations(self.degree, self.even) != np.arange(self.degree)
    return np.flatnonzero(moved.sum(axis=1) <= self.most_moved)

  def __post_init__(self):
    name = f"{'A' if self.even else 'S'}{self.degree}".lower()
    checks.check_at_least(name, 1, held_out_examples=self.held_out_examples)
    checks.check_at_least(name, 2 + self.even, most_moved=self.most_moved)


class S3Config(PermutationsConfig):
  """All 6 permutations of 3 points, the smallest group that does not commute."""


class A5Config(PermutationsConfig):
  """The 60 even permutations of 5 points, the smallest group that is not solvable."""

  degree, even = 5, True


class S5Config(PermutationsConfig):
  """All 120 permutations of 5 points."""

  degree, even = 5, False


def batch(
  keys: PRNGKeyArray, config: ModularAdditionConfig | PermutationsConfig, length: int
) -> dict[str, Int[Array, "B T"]]:
  """Sequences of the task, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The group.
    length: T, at least 1.

  Returns:
    A batch of `data`: inputs, targets, weights (float32) and segment_ids, all [B, T].

  Raises:
    ValueError: If there would be no token.
  """
  checks.check_at_least("a group word", 1, sequence_length=length)
  words, table = jnp.array(config.words), jnp.array(config.table, jnp.int32)
  draw = lambda key: jax.random.choice(key, words, (length,))
  inputs = jax.vmap(draw)(keys).astype(jnp.int32)
  return dict(
    inputs=inputs,
    targets=jax.lax.associative_scan(lambda x, y: table[y, x], inputs, axis=1),
    weights=jnp.ones(inputs.shape, jnp.float32),
    segment_ids=jnp.ones(inputs.shape, jnp.int32),
  )
