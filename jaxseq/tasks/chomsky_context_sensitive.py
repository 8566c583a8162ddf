"""Tasks that need a tape (Delétang et al. 2022, arXiv:2207.02098).

    duplicate_string   0 1 1           -> 0 1 1 0 1 1
    missing_duplicate  0 1 1 0 _ 1     -> 1
    odds_first         0 1 1 0 1       -> 1 0 0 1 1      places 1, 3, .., then 0, 2, ..
    bucket_sort        3 0 4 0         -> 0 0 3 4
    binary_addition    0 1 1 + 1 1     -> 1 0 0 1 end    6 + 3, least digit first

See `chomsky` for how answers are asked for. Left out are binary multiplication and the
square root. The two numbers to be added share the prompt in a random proportion.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxseq.tasks.chomsky import PromptConfig, StringConfig

__all__ = [
  "BinaryAdditionConfig",
  "BucketSortConfig",
  "DuplicateStringConfig",
  "MissingDuplicateConfig",
  "OddsFirstConfig",
]


@dataclasses.dataclass(frozen=True)
class DuplicateStringConfig(StringConfig):
  """See `StringConfig`."""

  name = "duplicate_string"
  copies = 2

  def rewrite(self, string):
    return jnp.tile(string, 2)


@dataclasses.dataclass(frozen=True)
class OddsFirstConfig(StringConfig):
  """See `StringConfig`."""

  name = "odds_first"

  def rewrite(self, string):
    return jnp.concatenate([string[1::2], string[::2]])


@dataclasses.dataclass(frozen=True)
class BucketSortConfig(StringConfig):
  """See `StringConfig`."""

  num_symbols: int = 5

  name = "bucket_sort"

  def rewrite(self, string):
    return jnp.sort(string)


@dataclasses.dataclass(frozen=True)
class MissingDuplicateConfig(PromptConfig):
  """A bit string twice, where id 2 stands for one of the bits."""

  name = "missing_duplicate"
  num_symbols = 3
  chance = 0.5
  least_length = 3

  def prompt_length(self, length: int) -> int:
    return (length - 1) // 2 * 2

  def example(self, key, n):
    bits_key, place_key = jax.random.split(key)
    whole = jnp.tile(jax.random.randint(bits_key, (n // 2,), 0, 2), 2)
    place = jax.random.randint(place_key, (), 0, n)
    return whole.at[place].set(2), whole[place][None], True


@dataclasses.dataclass(frozen=True)
class BinaryAdditionConfig(PromptConfig):
  """Ids 0 and 1 are bits, 2 is + and, behind the highest 1 of an answer, the end.

  Half of the tokens are ones: the highest bit always, the others as often as not.
  """

  name = "binary_addition"
  num_symbols = 3
  chance = 0.5
  least_length = 7

  def prompt_length(self, length: int) -> int:
    return (length - 1) // 2

  def example(self, key, n):
    bits_key, place_key = jax.random.split(key)
    places = jnp.arange(n)
    plus = jax.random.randint(place_key, (), 1, n - 1)
    prompt = jax.random.randint(bits_key, (n,), 0, 2).at[plus].set(2)
    x = jnp.where(places < plus, prompt, 0)
    y = jnp.where(places < n - 1 - plus, jnp.roll(prompt, -1 - plus), 0)

    def add(carry, digit):
      digit = digit + carry
      return digit // 2, digit % 2

    _, total = jax.lax.scan(add, jnp.zeros((), jnp.int32), jnp.pad(x + y, (0, 1)))
    end = n + 1 - jnp.argmax(jnp.append(total[::-1], 1))
    places = jnp.arange(n + 1)
    return prompt, jnp.where(places == end, 2, total), places <= end
