"""Counting letters (Zhang et al. 2024, arXiv:2410.19730, who ask for one of them).

    inputs   a . b a . a . . ?b ?a      "." is not counted, "?a" asks; k = 2, T = 10
    targets  . . . . . . . .  1  3      only these count

How often a letter stands in the string is drawn evenly from 0 to `max_count`, for each
letter by itself, so that no number is likelier than others; the places are random. All
k letters are asked for, in random order. Longer strings and, in a vocabulary that has
ids for them, larger numbers than those trained on can be asked for.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from jaxseq.tasks import checks

__all__ = ["CountingConfig", "batch"]


@dataclasses.dataclass(frozen=True)
class CountingConfig:
  """The task.

  Attributes:
    vocab_size: W. As inputs, ids below k are letters, k is not counted, k + 1 to 2 k
      ask; as targets, ids are numbers.
    num_letters: k.
    max_count: Largest number of one letter, below W.
    held_out_examples: Number of sequences evaluated.
  """

  vocab_size: int = 64
  num_letters: int = 2
  max_count: int = 10
  held_out_examples: int = 1024

  @property
  def chance(self) -> float:
    return 1 / (self.max_count + 1)

  def __post_init__(self):
    checks.check_at_least(
      "counting",
      1,
      num_letters=self.num_letters,
      max_count=self.max_count,
      held_out_examples=self.held_out_examples,
    )
    least = max(self.max_count, 2 * self.num_letters) + 1
    checks.check_at_least("counting", least, vocab_size=self.vocab_size)


def example(
  key: PRNGKeyArray, config: CountingConfig, length: int
) -> dict[str, Int[Array, "T"]]:
  """One sequence; see `batch`."""
  k = config.num_letters
  n = length - k
  counts_key, places_key, order_key = jax.random.split(key, 3)
  counts = jax.random.randint(counts_key, (k,), 0, config.max_count + 1)
  # Letter j stands counts[j] times, then what is not counted, k.
  sorted_string = jnp.searchsorted(jnp.cumsum(counts), jnp.arange(n), side="right")
  string = jax.random.permutation(places_key, sorted_string.astype(jnp.int32))
  asked = jax.random.permutation(order_key, k)
  return dict(
    inputs=jnp.concatenate([string, k + 1 + asked]),
    targets=jnp.concatenate([jnp.zeros_like(string), counts[asked]]),
    weights=(jnp.arange(length) >= n).astype(jnp.float32),
    segment_ids=jnp.ones(length, jnp.int32),
  )


def batch(
  keys: PRNGKeyArray, config: CountingConfig, length: int
) -> dict[str, Int[Array, "B T"]]:
  """Sequences of the task, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The task.
    length: T, at least (`max_count` + 1) `num_letters`.

  Returns:
    A batch of `data`: inputs, targets, weights (float32) and segment_ids, all [B, T].

  Raises:
    ValueError: If the largest numbers of all letters and the questions do not fit.
  """
  least = (config.max_count + 1) * config.num_letters
  checks.check_at_least("counting", least, sequence_length=length)
  return jax.vmap(lambda key: example(key, config, length))(keys)
