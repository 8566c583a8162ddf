"""Set disjointness in two orders (Arora et al. 2024, arXiv:2407.05483).

    smaller first   inputs   a b | c d b e f ?        2 elements and 5; T = 9
    larger first    inputs   c d b e f | a b ?
                    targets  . . . . . . . . n        they are not disjoint

Which order it is changes the memory needed: who reads the smaller set first need only
keep that. Half of all pairs of sets are disjoint, the others share one element. That is
the problem of the paper; the authors' code asks for the element that is shared, and
none of its pairs is disjoint.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from jaxseq.tasks import checks, just_read_twice

__all__ = ["SetDisjointnessConfig", "batch"]

SHARED, DISJOINT, BAR, ASK = range(4)
SPECIAL = 4  # Ids before the elements.


@dataclasses.dataclass(frozen=True)
class SetDisjointnessConfig:
  """The task.

  Attributes:
    vocab_size: W. Four are special: two answers, "|" and "?"; then the elements.
    set_size: Elements of the smaller set; the larger one fills the row.
    first: "smaller" or "larger", the set that is read first.
    answer: "whether" they are disjoint, or "which" element is shared by sets that
      never are.
    twice: Whether the sets are read twice before the question; see `just_read_twice`.
    held_out_examples: Number of sequences evaluated.
  """

  vocab_size: int = 2048
  set_size: int = 4
  first: str = "smaller"
  answer: str = "whether"
  twice: bool = False
  held_out_examples: int = 1024

  @property
  def chance(self) -> float:
    return 0.5 if self.answer == "whether" else 1 / (self.vocab_size - SPECIAL)

  def __post_init__(self):
    name = "set_disjointness"
    checks.check_one_of(name, ("smaller", "larger"), first=self.first)
    checks.check_one_of(name, ("whether", "which"), answer=self.answer)
    checks.check_at_least(
      name, 1, set_size=self.set_size, held_out_examples=self.held_out_examples
    )
    least = 2 * self.set_size + SPECIAL
    checks.check_at_least(name, least, vocab_size=self.vocab_size)


def example(
  key: PRNGKeyArray, config: SetDisjointnessConfig, length: int
) -> dict[str, Int[Array, "T"]]:
  """One sequence; see `batch`."""
  n = config.set_size
  m = length - n - 2
  elements_key, kind_key, *place_keys = jax.random.split(key, 4)
  elements = config.vocab_size - SPECIAL
  both = SPECIAL + jax.random.choice(elements_key, elements, (n + m,), replace=False)
  smaller, larger = both[:n], both[n:]
  shared = smaller[jax.random.randint(place_keys[0], (), 0, n)]
  place = jax.random.randint(place_keys[1], (), 0, m)
  disjoint = jax.random.bernoulli(kind_key) & (config.answer == "whether")
  larger = jnp.where(disjoint, larger, larger.at[place].set(shared))
  whether = jnp.where(disjoint, DISJOINT, SHARED)
  sets = [smaller, larger] if config.first == "smaller" else [larger, smaller]
  return dict(
    inputs=jnp.concatenate([sets[0], jnp.array([BAR]), sets[1], jnp.array([ASK])]),
    targets=jnp.zeros(length, jnp.int32)
    .at[-1]
    .set(whether if config.answer == "whether" else shared),
    weights=jnp.zeros(length, jnp.float32).at[-1].set(1),
    segment_ids=jnp.ones(length, jnp.int32),
  )


def batch(
  keys: PRNGKeyArray, config: SetDisjointnessConfig, length: int
) -> dict[str, Int[Array, "B T"]]:
  """Sequences of the task, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The task.
    length: T, at least 2 `set_size` + 2, at most `vocab_size` - 2; if the sets are
      read twice, this holds for T / 2, rounded up, and an even T ends in padding.

  Returns:
    A batch of `data`: inputs, targets, weights (float32) and segment_ids, all [B, T].

  Raises:
    ValueError: If the larger set would be the smaller, or lack elements.
  """
  once = -(-length // 2) if config.twice else length
  least = 2 * config.set_size + 2
  checks.check_at_least("set_disjointness", least, sequence_length=once)
  if once > config.vocab_size - 2:
    raise ValueError(
      f"set_disjointness needs vocab_size >= sequence_length + 2 = {once + 2}, for "
      f"sets without a common element; got {config.vocab_size}"
    )
  batch = jax.vmap(lambda key: example(key, config, once))(keys)
  if not config.twice:
    return batch
  context_length = jnp.full(len(keys), once - 1)
  return just_read_twice.read_twice(batch, context_length, length)
