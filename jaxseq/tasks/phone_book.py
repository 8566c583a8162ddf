"""The phone book (Jelassi et al. 2024, "Repeat After Me", arXiv:2402.01032).

    inputs   A B 7 3 A C 9 9 B A 0 4 | A C 9        "|" asks; T = 16
    targets  . . . . . . . . . . . . . . 9 9        only these count

Entries are a first and a last name and a number, each name once; the number of one is
asked for. The book is as long as the row allows. The authors' own is of English names,
with separators and two solved questions before the last, for models that were not
trained on it.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from jaxseq.tasks import checks

__all__ = ["PhoneBookConfig", "batch"]

DIGITS = 10


@dataclasses.dataclass(frozen=True)
class PhoneBookConfig:
  """The task.

  Attributes:
    num_names: N, first names and as many last names, the same ids. Ten digits have
      the ids before, "|" the last.
    number_length: Digits of a number.
    held_out_examples: Number of sequences evaluated.
  """

  num_names: int = 32
  number_length: int = 10
  held_out_examples: int = 1024

  chance = 1 / DIGITS

  @property
  def vocab_size(self) -> int:
    return DIGITS + self.num_names + 1

  def __post_init__(self):
    checks.check_at_least(
      "phone_book",
      1,
      num_names=self.num_names,
      number_length=self.number_length,
      held_out_examples=self.held_out_examples,
    )


def num_entries(config: PhoneBookConfig, length: int) -> int:
  """The entries of a row; the question is as long as one."""
  return length // (2 + config.number_length) - 1


def example(
  key: PRNGKeyArray, config: PhoneBookConfig, length: int
) -> dict[str, Int[Array, "T"]]:
  """One sequence; see `batch`."""
  n, k, N = num_entries(config, length), config.number_length, config.num_names
  names_key, numbers_key, ask_key = jax.random.split(key, 3)
  names = jax.random.choice(names_key, N * N, (n,), replace=False)
  names = DIGITS + jnp.stack([names // N, names % N], axis=1)
  numbers = jax.random.randint(numbers_key, (n, k), 0, DIGITS)
  book = jnp.concatenate([names, numbers], axis=1)
  asked = jax.random.randint(ask_key, (), 0, n)
  end = (n + 1) * (2 + k)  # What the row has beyond is filled up.
  tokens = [book.reshape(-1), jnp.array([DIGITS + N]), book[asked][:-1]]
  place = jnp.arange(length)
  return dict(
    inputs=jnp.full(length, DIGITS + N).at[:end].set(jnp.concatenate(tokens)),
    targets=jnp.zeros(length, jnp.int32).at[end - k : end].set(numbers[asked]),
    weights=((place >= end - k) & (place < end)).astype(jnp.float32),
    segment_ids=jnp.ones(length, jnp.int32),
  )


def batch(
  keys: PRNGKeyArray, config: PhoneBookConfig, length: int
) -> dict[str, Int[Array, "B T"]]:
  """Sequences of the task, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The task.
    length: T, at least two entries, of `number_length` + 2 tokens each.

  Returns:
    A batch of `data`: inputs, targets, weights (float32) and segment_ids, all [B, T].

  Raises:
    ValueError: If no entry fits, or there are more than names.
  """
  least = 2 * (2 + config.number_length)
  checks.check_at_least("phone_book", least, sequence_length=length)
  n = num_entries(config, length)
  if n > config.num_names**2:
    raise ValueError(
      f"phone_book needs num_names ** 2 >= {n}, a name for each entry of "
      f"{length} tokens; got num_names = {config.num_names}"
    )
  return jax.vmap(lambda key: example(key, config, length))(keys)
