"""Working memory: what was studied is held for a while and then asked about.

    inputs   i1 i2 i3 HOLD  .  i7 .  .  ASK p1 p2 p3        n = 3 items, m = 3 probes
    targets   .  .  .  .    .  .  .  .   .  a1 a2 a3        only these count

Tasks of WorM (Sikarwar & Zhang 2023, arXiv:2307.10768), as in the authors' code, with
ids for what they show in images. The retention interval is as long as the length
allows. Some of it is items that are to be ignored, the rest is blank, as theirs is.
Answers are items, or YES and NO:

    serial_recall         blanks: what were the items, in their order?
    serial_recognition    n items: was this the k-th? If not, it was another one
    free_recall           each item there is, in any order: was it studied?
    item_recognition      n items: was it studied? (WorM asks about one)
    change_detection      the items again, or all but one: NO or YES, at the last
    feature_binding       pairs of features: were they one object's? At the second one
    spatial_coordination  a blank: were the cells symmetric about the middle of a row?
    complex_span          as serial_recall; each item is followed by pairs of other ids,
                          to be judged at once: are they the same?

The k-th thing studied stands at k, from 0, or at 2 k where it is a pair of features, or
at (2 d + 1) k where d pairs follow it; the k-th of m probes at T - m + k. WorM's serial
and item recognition take lures that look like an item; ids are all alike. Its feature
binding is the change detection of conjunctions.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from jaxseq.tasks import checks

__all__ = [
  "ASK",
  "BLANK",
  "HOLD",
  "ITEM",
  "NO",
  "YES",
  "ComplexSpanConfig",
  "FreeRecallConfig",
  "SerialRecallConfig",
  "SpatialCoordinationConfig",
  "WorkingMemoryConfig",
  "batch",
  "change_detection",
  "complex_span",
  "feature_binding",
  "free_recall",
  "item_recognition",
  "serial_recall",
  "serial_recognition",
  "spatial_coordination",
]

BLANK, HOLD, ASK, NO, YES, ITEM = range(6)  # Items are ITEM and the ids above it.


@dataclasses.dataclass(frozen=True)
class WorkingMemoryConfig:
  """Any of the tasks, with questions of yes or no.

  Attributes:
    set_size: n, items to hold.
    num_items: N that they are drawn from; there are as many second features, or other
      ids to judge.
    distractors: Share of the retention interval that is items.
    held_out_examples: Number of sequences evaluated.
  """

  set_size: int = 6
  num_items: int = 16
  distractors: float = 0.5
  held_out_examples: int = 1024

  @property
  def vocab_size(self) -> int:
    """One for all of the tasks."""
    return ITEM + 2 * self.num_items

  @property
  def chance(self) -> float:
    return 0.5

  def __post_init__(self):
    checks.check_at_least("working_memory", 1, held_out_examples=self.held_out_examples)
    if not 2 <= self.set_size < self.num_items:
      raise ValueError(
        "working_memory needs 2 <= set_size < num_items; "
        f"got {self.set_size} and {self.num_items}"
      )
    if not 0 <= self.distractors <= 1:
      raise ValueError(
        f"working_memory needs distractors in [0, 1]; got {self.distractors}"
      )


class SerialRecallConfig(WorkingMemoryConfig):
  """Its answers are items."""

  @property
  def chance(self) -> float:
    return 1 / self.num_items


class FreeRecallConfig(WorkingMemoryConfig):
  """Its answers are NO where set_size is below num_items / 2."""

  @property
  def chance(self) -> float:
    share = self.set_size / self.num_items
    return max(share, 1 - share)


class SpatialCoordinationConfig(WorkingMemoryConfig):
  """Its items are cells of a row; a half is mirrored in the other one."""

  def __post_init__(self):
    super().__post_init__()
    if self.set_size % 2 or self.set_size // 2 >= self.num_items // 2:
      raise ValueError(
        "spatial_coordination needs an even set_size and a cell left free in each half "
        f"of num_items; got {self.set_size} and {self.num_items}"
      )


@dataclasses.dataclass(frozen=True)
class ComplexSpanConfig(WorkingMemoryConfig):
  """Its answers are items, and YES and NO on the way.

  Attributes:
    num_pairs: d, to judge after each item. WorM has 0 to 5.
  """

  num_pairs: int = 1

  @property
  def chance(self) -> float:
    return max(self.num_pairs / 2, 1 / self.num_items) / (1 + self.num_pairs)

  def __post_init__(self):
    super().__post_init__()
    checks.check_at_least("complex_span", 0, num_pairs=self.num_pairs)


# A trial is what is studied and the probes, each [2, n], ids above their answers.
Trial = tuple[Int[Array, "2 _"], Int[Array, "2 _"]]


def serial_recall(key: PRNGKeyArray, config: SerialRecallConfig) -> Trial:
  items, _ = _studied(key, config)
  return _unasked(items), jnp.stack([jnp.full_like(items, BLANK), items])


def serial_recognition(key: PRNGKeyArray, config: WorkingMemoryConfig) -> Trial:
  items_key, probes_key = jax.random.split(key)
  items, _ = _studied(items_key, config)
  which, answers = _own_or_other(probes_key, config.set_size)
  return _unasked(items), jnp.stack([items[which], answers])


def free_recall(key: PRNGKeyArray, config: FreeRecallConfig) -> Trial:
  items_key, probes_key = jax.random.split(key)
  items, _ = _studied(items_key, config)
  probes = ITEM + jax.random.permutation(probes_key, config.num_items)
  return _unasked(items), jnp.stack([probes, _yes(jnp.isin(probes, items))])


def item_recognition(key: PRNGKeyArray, config: WorkingMemoryConfig) -> Trial:
  items_key, old_key, place_key = jax.random.split(key, 3)
  items, others = _studied(items_key, config)
  old = jax.random.bernoulli(old_key, shape=(config.set_size,))
  pick = lambda ids: jax.random.choice(place_key, ids, old.shape)
  return _unasked(items), jnp.stack(
    [jnp.where(old, pick(items), pick(others)), _yes(old)]
  )


def change_detection(key: PRNGKeyArray, config: WorkingMemoryConfig) -> Trial:
  n, N = config.set_size, config.num_items
  items_key, changed_key, place_key, shift_key = jax.random.split(key, 4)
  items = jax.random.randint(items_key, (n,), 0, N)  # Some may be alike.
  changed = jax.random.bernoulli(changed_key).astype(jnp.int32)
  place = jax.random.randint(place_key, (), 0, n)
  shift = changed * jax.random.randint(shift_key, (), 1, N)
  probes = _unasked(ITEM + items.at[place].add(shift) % N)
  return _unasked(ITEM + items), probes.at[1, -1].set(_yes(changed))


def feature_binding(key: PRNGKeyArray, config: WorkingMemoryConfig) -> Trial:
  first_key, second_key, order_key, probes_key = jax.random.split(key, 4)
  first, _ = _studied(first_key, config)
  second = _studied(second_key, config)[0] + config.num_items
  which, answers = _own_or_other(probes_key, config.set_size)
  asked = jnp.stack([_unasked(first), jnp.stack([second[which], answers])], axis=-1)
  asked = jax.random.permutation(order_key, asked, axis=1)
  objects = jnp.stack([first, second], axis=-1)
  return _unasked(objects.reshape(-1)), asked.reshape(2, -1)


def spatial_coordination(key: PRNGKeyArray, config: SpatialCoordinationConfig) -> Trial:
  cells_key, order_key, symmetric_key = jax.random.split(key, 3)
  half = config.set_size // 2
  cells = jax.random.permutation(cells_key, config.num_items // 2)
  symmetric = jax.random.bernoulli(symmetric_key)
  mirrored = cells[:half].at[0].set(cells[jnp.where(symmetric, 0, half)])
  cells = jnp.concatenate([cells[:half], config.num_items - 1 - mirrored])
  cells = ITEM + jax.random.permutation(order_key, cells)
  return _unasked(cells), jnp.stack([jnp.array(BLANK), _yes(symmetric)])[:, None]


def complex_span(key: PRNGKeyArray, config: ComplexSpanConfig) -> Trial:
  N, shape = config.num_items, (config.set_size, config.num_pairs)
  items_key, first_key, same_key, shift_key = jax.random.split(key, 4)
  items, probes = serial_recall(items_key, config)
  first = jax.random.randint(first_key, shape, 0, N)
  same = jax.random.bernoulli(same_key, shape=shape)
  second = (first + ~same * jax.random.randint(shift_key, shape, 1, N)) % N
  pairs = _unasked(ITEM + N + jnp.stack([first, second], axis=-1))
  pairs = pairs.at[1, ..., 1].set(_yes(same)).reshape(2, config.set_size, -1)
  study = jnp.concatenate([items[..., None], pairs], axis=-1)
  return study.reshape(2, -1), probes


def _studied(key, config):
  """Items [n], none twice, and those that are left."""
  order = ITEM + jax.random.permutation(key, config.num_items)
  return order[: config.set_size], order[config.set_size :]


def _own_or_other(key, n):
  """For each of n its own number or, as often, another one's, and if it is its own."""
  own_key, other_key = jax.random.split(key)
  own = jax.random.bernoulli(own_key, shape=(n,))
  other = jnp.arange(n) + jax.random.randint(other_key, (n,), 1, n)
  return jnp.where(own, jnp.arange(n), other % n), _yes(own)


def _yes(holds):
  return jnp.where(holds, YES, NO)


def _unasked(ids):
  return jnp.stack([ids, jnp.zeros_like(ids)])


def example(
  key: PRNGKeyArray, config: WorkingMemoryConfig, length: int, trial: Callable
) -> dict[str, Int[Array, "T"]]:
  """One sequence; see `batch`."""
  trial_key, place_key, item_key = jax.random.split(key, 3)
  study, probes = trial(trial_key, config)
  least = study.shape[1] + probes.shape[1] + 2
  checks.check_at_least(trial.__name__, least, sequence_length=length)
  item = ITEM + jax.random.randint(item_key, (length - least,), 0, config.num_items)
  there = jax.random.bernoulli(place_key, config.distractors, item.shape)
  held = jnp.concatenate(
    [jnp.array([HOLD]), jnp.where(there, item, BLANK), jnp.array([ASK])]
  )
  inputs, targets = jnp.concatenate([study, _unasked(held), probes], axis=1)
  return dict(
    inputs=inputs,
    targets=targets,
    weights=(targets > 0).astype(jnp.float32),
    segment_ids=jnp.ones(length, jnp.int32),
  )


def batch(
  keys: PRNGKeyArray,
  config: WorkingMemoryConfig,
  length: int,
  *,
  trial: Callable[[PRNGKeyArray, WorkingMemoryConfig], Trial],
) -> dict[str, Int[Array, "B T"]]:
  """Sequences of a task, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The task.
    length: T: what is studied, the probes and 2 marks fit, and the rest is the
      retention interval.
    trial: One of those above.

  Returns:
    A batch of `data`: inputs, targets, weights (float32) and segment_ids, all [B, T].

  Raises:
    ValueError: If they do not fit.
  """
  return jax.vmap(lambda key: example(key, config, length, trial))(keys)
