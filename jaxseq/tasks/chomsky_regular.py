"""Tasks that a finite automaton can do (Delétang et al. 2022, arXiv:2207.02098).

    even_pairs           0 1 1 0 1   -> 1      are the 01 and 10 an odd number?
    cycle_navigation     > > - < >   -> 2      where on a cycle, from 0; "-" stays
    modular_arithmetic   3 - 2 * 4   -> 0      modulo 5, products first

Their fourth, parity, is a task by itself. See `chomsky` for how answers are asked for.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxseq.tasks import checks
from jaxseq.tasks.chomsky import PromptConfig

__all__ = ["CycleNavigationConfig", "EvenPairsConfig", "ModularArithmeticConfig"]


@dataclasses.dataclass(frozen=True)
class EvenPairsConfig(PromptConfig):
  """The number of changes is even if the last bit is the first."""

  name = "even_pairs"
  num_symbols = 2
  chance = 0.5
  least_length = 3

  def example(self, key, n):
    bits = jax.random.randint(key, (n,), 0, 2)
    return bits, bits[:1] ^ bits[-1:], True


@dataclasses.dataclass(frozen=True)
class CycleNavigationConfig(PromptConfig):
  """Inputs are 0, a step back, 1, none, and 2, a step on.

  Attributes:
    cycle_length: Number of places. All are equally likely after a long walk, to which
      `chance` refers.
  """

  cycle_length: int = 5

  name = "cycle_navigation"

  @property
  def num_symbols(self) -> int:
    return max(3, self.cycle_length)

  @property
  def chance(self) -> float:
    return 1 / self.cycle_length

  def example(self, key, n):
    steps = jax.random.randint(key, (n,), 0, 3)
    return steps, jnp.sum(steps - 1, keepdims=True) % self.cycle_length, True

  def __post_init__(self):
    super().__post_init__()
    checks.check_at_least(self.name, 2, cycle_length=self.cycle_length)


@dataclasses.dataclass(frozen=True)
class ModularArithmeticConfig(PromptConfig):
  """Numbers and, as ids modulus, + 1 and + 2, the operators +, - and *.

  Attributes:
    modulus: All results are equally likely in the long run, to which `chance` refers.
      In short expressions 0 is likelier.
  """

  modulus: int = 5

  name = "modular_arithmetic"

  @property
  def num_symbols(self) -> int:
    return self.modulus + 3

  @property
  def chance(self) -> float:
    return 1 / self.modulus

  def prompt_length(self, length: int) -> int:
    return length // 2 * 2 - 1  # Operators stand between numbers.

  def example(self, key, n):
    numbers_key, operators_key = jax.random.split(key)
    numbers = jax.random.randint(numbers_key, (n // 2 + 1,), 0, self.modulus)
    operators = jax.random.randint(operators_key, (n // 2,), 0, 3)

    def step(state, token):
      total, product = state
      operator, x = token
      multiplies = operator == 2
      total = total + jnp.where(multiplies, 0, product)
      product = jnp.where(multiplies, product * x, jnp.where(operator == 1, -x, x))
      return (total % self.modulus, product % self.modulus), None

    first = jnp.zeros_like(numbers[0]), numbers[0]
    last, _ = jax.lax.scan(step, first, (operators, numbers[1:]))
    prompt = jnp.zeros(n, jnp.int32).at[::2].set(numbers)
    prompt = prompt.at[1::2].set(self.modulus + operators)
    return prompt, jnp.sum(jnp.stack(last), keepdims=True) % self.modulus, True

  def __post_init__(self):
    super().__post_init__()
    checks.check_at_least(self.name, 2, modulus=self.modulus)
