"""Tasks that need a stack (Delétang et al. 2022, arXiv:2207.02098).

    reverse_string               0 1 1           -> 1 1 0
    stack_manipulation           0 1 1 pop +0    -> 0 1 0 end    from the top, of 0 1 0
    modular_arithmetic_brackets  ((4-1)-(-3))    -> 1            modulo 5
    solve_equation               (2-(x+1))=4     -> 2            what is x?

See `chomsky` for how answers are asked for. A stack begins as a random number of bits;
pop does nothing to an empty one. Brackets hold -e or two expressions, whose lengths are
split at random. In the authors' runs these may also be multiplied; here they are not,
so that each result and each x is equally likely.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from jaxseq.tasks import checks
from jaxseq.tasks.chomsky import PromptConfig, StringConfig

__all__ = [
  "ModularArithmeticBracketsConfig",
  "ReverseStringConfig",
  "SolveEquationConfig",
  "StackManipulationConfig",
]


@dataclasses.dataclass(frozen=True)
class ReverseStringConfig(StringConfig):
  """See `StringConfig`."""

  name = "reverse_string"

  def rewrite(self, string):
    return string[::-1]


@dataclasses.dataclass(frozen=True)
class StackManipulationConfig(PromptConfig):
  """Ids 0 and 1 are bits, 2 pops, 3 and 4 push a bit. In answers 2 is the end.

  Of long stacks about half are ones, to which `chance` refers.
  """

  name = "stack_manipulation"
  num_symbols = 5
  chance = 0.5
  least_length = 5

  def prompt_length(self, length: int) -> int:
    return (length - 1) // 2

  def example(self, key, n):
    split_key, bits_key, actions_key = jax.random.split(key, 3)
    bits = jax.random.randint(bits_key, (n,), 0, 2)
    actions = jax.random.randint(actions_key, (n,), 2, 5)
    begins = jnp.arange(n) < jax.random.randint(split_key, (), 1, n)
    prompt = jnp.where(begins, bits, actions)

    def step(state, token):
      stack, depth = state
      # Written above the top if it is a pop.
      stack = stack.at[depth].set(token % 3)
      return (stack, jnp.maximum(depth + jnp.where(token == 2, -1, 1), 0)), None

    (stack, depth), _ = jax.lax.scan(step, (jnp.zeros(n, jnp.int32), 0), prompt)
    down = depth - 1 - jnp.arange(n + 1)
    return prompt, jnp.where(down >= 0, stack[down], 2), down >= -1


@dataclasses.dataclass(frozen=True)
class ModularArithmeticBracketsConfig(PromptConfig):
  """Numbers and, as ids modulus, + 1, + 2 and + 3, the symbols +, -, ( and ).

  Attributes:
    modulus: Of numbers and results.
  """

  modulus: int = 5

  name = "modular_arithmetic_brackets"

  @property
  def num_symbols(self) -> int:
    return self.modulus + 4

  @property
  def chance(self) -> float:
    return 1 / self.modulus

  def example(self, key, n):
    prompt, value = expression(key, n, self.modulus)
    return prompt, value[None], True

  def __post_init__(self):
    super().__post_init__()
    checks.check_at_least(self.name, 2, modulus=self.modulus)


@dataclasses.dataclass(frozen=True)
class SolveEquationConfig(ModularArithmeticBracketsConfig):
  """As above, and + 4 and + 5 are x and =. Any of the numbers may be x."""

  name = "solve_equation"
  least_length = 4

  @property
  def num_symbols(self) -> int:
    return self.modulus + 6

  def example(self, key, n):
    key, place_key = jax.random.split(key)
    left, value = expression(key, n - 2, self.modulus)
    numbers = jnp.where(left < self.modulus, 0.0, -jnp.inf)
    place = jax.random.categorical(place_key, numbers)
    x, equals = self.modulus + 4, self.modulus + 5
    prompt = jnp.concatenate([left.at[place].set(x), jnp.array([equals]), value[None]])
    return prompt, left[place][None], True


def expression(
  key: PRNGKeyArray, n: int, modulus: int
) -> tuple[Int[Array, "N"], Int[Array, ""]]:
  """An expression of n tokens, and its value.

  A stack holds what is still to be written: expressions by their length, and symbols.
  Each step takes the top one, writes its first token and puts the rest back. Signs are
  carried inwards, so that the value is the sum of the numbers with their signs.
  """
  plus, minus, opening, closing = modulus + jnp.arange(4)
  CLOSING, PLUS, MINUS = 0, -1, -2  # Among lengths, which are positive.

  def step(state, key):
    stack, depth, value = state
    item, sign = stack[depth - 1]
    number_key, sign_key, split_key = jax.random.split(key, 3)
    number = jax.random.randint(number_key, (), 0, modulus)
    negative = jax.random.bernoulli(sign_key)
    first = jax.random.randint(split_key, (), 1, jnp.maximum(item - 3, 2))

    symbol = jnp.array([closing, plus, minus])[-item]
    token = jnp.select(
      [item <= 0, item == 1, item == 2], [symbol, number, minus], opening
    )
    # The last to be written is the first to be put back.
    binary = [
      (CLOSING, sign),
      (item - 3 - first, jnp.where(negative, -sign, sign)),
      (jnp.where(negative, MINUS, PLUS), sign),
      (first, sign),
    ]
    bracket = [(CLOSING, sign), (item - 2, sign), (0, 0), (0, 0)]
    negation = [(1, -sign), (0, 0), (0, 0), (0, 0)]
    rest = jnp.select(
      [item >= 5, item >= 3],
      [jnp.array(binary), jnp.array(bracket)],
      jnp.array(negation),
    )
    size = jnp.select([item >= 5, item >= 3, item == 2], [4, 2, 1], 0)
    stack = jax.lax.dynamic_update_slice(stack, rest, (depth - 1, 0))
    value = (value + jnp.where(item == 1, sign * number, 0)) % modulus
    return (stack, depth - 1 + size, value), token

  # Each item writes a token at least, so that there are never more than n.
  stack = jnp.zeros((n + 4, 2), jnp.int32).at[0].set(jnp.array([n, 1]))
  (_, _, value), tokens = jax.lax.scan(step, (stack, 1, 0), jax.random.split(key, n))
  return tokens, value
