"""Needles in filler, and the passkey, which is one needle in repeated filler.

    needle   inputs   . . B 4 2 . . A 7 1 . . . . A 7        keys A, B; T = 16
             targets  . . . . . . . . . . . . . . 7 1        only these count
    passkey  inputs   x y z A 5 0 3 y z x y z A 5 0
             targets  . . . . . . . . . . . . 5 0 3

Passkey retrieval is of Mohtashami & Jaggi (2023, "Landmark Attention",
arXiv:2305.16300): random digits amid one text repeated over and over. Needles under
different keys, of which one is asked for, are of RULER (Hsieh et al. 2024,
arXiv:2404.06654). Here filler, keys and digits are tokens of their own, so that
what is to be kept can be told by sight, at any length.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from jaxseq.tasks import checks

__all__ = ["NeedleConfig", "PasskeyConfig", "batch"]

DIGITS = 10


@dataclasses.dataclass(frozen=True)
class NeedleConfig:
  """The task.

  Attributes:
    num_needles: In a row.
    num_keys: Different keys; no two needles of a row have the same.
    number_length: Digits of a needle.
    depth: Where the needle that is asked for stands, the share of the filler before
      it, 0 to 1. Anywhere if None, as all the others.
    filler: "random", or "repeated", all its ids in order, over and over.
    filler_vocab_size: Ids of filler. Digits have ids 0 to 9, then keys, then filler.
    held_out_examples: Number of sequences evaluated.
  """

  num_needles: int = 4
  num_keys: int = 16
  number_length: int = 4
  depth: float | None = None
  filler: str = "random"
  filler_vocab_size: int = 16
  held_out_examples: int = 1024

  name = "needle"
  chance = 1 / DIGITS

  @property
  def vocab_size(self) -> int:
    return DIGITS + self.num_keys + self.filler_vocab_size

  def __post_init__(self):
    checks.check_at_least(
      self.name,
      1,
      num_needles=self.num_needles,
      number_length=self.number_length,
      filler_vocab_size=self.filler_vocab_size,
      held_out_examples=self.held_out_examples,
    )
    checks.check_at_least(self.name, self.num_needles, num_keys=self.num_keys)
    checks.check_one_of(self.name, ("random", "repeated"), filler=self.filler)
    if self.depth is not None and not 0 <= self.depth <= 1:
      raise ValueError(f"{self.name} needs depth None or 0 to 1; got {self.depth}")


@dataclasses.dataclass(frozen=True)
class PasskeyConfig(NeedleConfig):
  """One needle of five digits in repeated filler."""

  num_needles: int = 1
  num_keys: int = 1
  number_length: int = 5
  filler: str = "repeated"

  name = "passkey"


def example(
  key: PRNGKeyArray, config: NeedleConfig, length: int
) -> dict[str, Int[Array, "T"]]:
  """One sequence; see `batch`."""
  n, k, F = config.num_needles, config.number_length, config.filler_vocab_size
  names_key, numbers_key, places_key, filler_key = jax.random.split(key, 4)
  names = DIGITS + jax.random.choice(names_key, config.num_keys, (n, 1), replace=False)
  numbers = jax.random.randint(numbers_key, (n, k), 0, DIGITS)
  needles = jnp.concatenate([names, numbers], axis=1)

  around = length - (n + 1) * (k + 1) + 1  # Filler in all. The query lacks a digit.
  before = jax.random.randint(places_key, (n,), 0, around + 1)  # Filler before each.
  if config.depth is not None:
    before = before.at[0].set(round(config.depth * around))  # The first is asked for.
  start = before + (k + 1) * jnp.argsort(jnp.argsort(before))

  filler = jnp.arange(length) % F
  if config.filler == "random":
    filler = jax.random.randint(filler_key, (length,), 0, F)
  inputs = DIGITS + config.num_keys + filler
  inputs = inputs.at[start[:, None] + jnp.arange(k + 1)].set(needles)
  return dict(
    inputs=inputs.at[-k:].set(needles[0, :-1]),
    targets=jnp.zeros(length, jnp.int32).at[-k:].set(numbers[0]),
    weights=(jnp.arange(length) >= length - k).astype(jnp.float32),
    segment_ids=jnp.ones(length, jnp.int32),
  )


def batch(
  keys: PRNGKeyArray, config: NeedleConfig, length: int
) -> dict[str, Int[Array, "B T"]]:
  """Sequences of the task, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The task.
    length: T; the needles and the query must fit, but for its last digit.

  Returns:
    A batch of `data`: inputs, targets, weights (float32) and segment_ids, all [B, T].

  Raises:
    ValueError: If they do not fit.
  """
  least = (config.num_needles + 1) * (config.number_length + 1) - 1
  checks.check_at_least(config.name, least, sequence_length=length)
  return jax.vmap(lambda key: example(key, config, length))(keys)
