"""Working memory whose content changes while it is held.

The n-back task (Kirchner 1958, doi:10.1037/h0043688): is this item the one n before it?

    inputs    7  3  7  5  7  5             n = 2
    targets   .  . YES NO YES YES          only these count

and two of WorM (Sikarwar & Zhang 2023, arXiv:2307.10768), as in the authors' code. In
memory updating each of some boxes has a mark in one of 3 x 3 cells, which moves to a
neighbouring one when its box is shown with an arrow. At the end each box is asked for:

    inputs   A 4 B 0  A > B v A >  ASK B A          A and B are boxes, 0 to 8 cells
    targets  . . . .  . . . . . .   .  3 3          (4, 5 and, as the grid is closed, 3)

Their marks do not leave the grid, here they enter it again at the other side, so that
all cells are as likely. Boxes are drawn; there they take turns. The k-th of n probes
stands at T - n + k; as many moves come before as fit.

In task switching a cue names a rule, and each mark is judged by the last cue's:

    inputs   |  0  3  2  -  2  1           0 1      "|": is it in the lower half?
    targets  . NO YES YES .  NO YES        2 3      "-": is it in the right half?

Marks are numbers here, and rule r asks for their bit r. All but the first of the cues
name another rule than the one before. Cue may follow cue, in WorM it does not.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from jaxseq.tasks import checks
from jaxseq.tasks.working_memory import ASK, BLANK, ITEM, NO, YES

__all__ = [
  "MemoryUpdatingConfig",
  "NBackConfig",
  "TaskSwitchingConfig",
  "memory_updating",
  "n_back",
  "task_switching",
]

CELLS, MOVES = 9, 8


@dataclasses.dataclass(frozen=True)
class NBackConfig:
  """The n-back task.

  Attributes:
    num_back: n.
    num_items: Items there are. Half of those asked for are the one n before.
    held_out_examples: Number of sequences evaluated.
  """

  num_back: int = 2
  num_items: int = 8
  held_out_examples: int = 1024

  chance = 0.5

  @property
  def vocab_size(self) -> int:
    return ITEM + self.num_items

  def __post_init__(self):
    checks.check_at_least(
      "n_back", 1, num_back=self.num_back, held_out_examples=self.held_out_examples
    )
    checks.check_at_least("n_back", 2, num_items=self.num_items)


@dataclasses.dataclass(frozen=True)
class MemoryUpdatingConfig:
  """Memory updating.

  Attributes:
    set_size: n, boxes of a sequence.
    num_boxes: That they are drawn from.
    held_out_examples: Number of sequences evaluated.
  """

  set_size: int = 4
  num_boxes: int = 16
  held_out_examples: int = 1024

  chance = 1 / CELLS

  @property
  def vocab_size(self) -> int:
    return ITEM + CELLS + MOVES + self.num_boxes

  def __post_init__(self):
    checks.check_at_least(
      "memory_updating",
      1,
      set_size=self.set_size,
      held_out_examples=self.held_out_examples,
    )
    checks.check_at_least("memory_updating", self.set_size, num_boxes=self.num_boxes)


@dataclasses.dataclass(frozen=True)
class TaskSwitchingConfig:
  """Task switching.

  Attributes:
    num_rules: Rules there are, and bits of a mark. WorM has 2.
    switch: How likely a cue is at each place.
    held_out_examples: Number of sequences evaluated.
  """

  num_rules: int = 2
  switch: float = 0.2
  held_out_examples: int = 1024

  chance = 0.5

  @property
  def vocab_size(self) -> int:
    return ITEM + self.num_rules + 2**self.num_rules

  def __post_init__(self):
    checks.check_at_least("task_switching", 2, num_rules=self.num_rules)
    checks.check_at_least("task_switching", 1, held_out_examples=self.held_out_examples)
    if not 0 <= self.switch < 1:
      raise ValueError(f"task_switching needs switch in [0, 1); got {self.switch}")


def n_back(
  keys: PRNGKeyArray, config: NBackConfig, length: int
) -> dict[str, Int[Array, "B T"]]:
  """Sequences of the n-back task, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The task.
    length: T, more than `num_back`.

  Returns:
    A batch of `data`: inputs, targets, weights (float32) and segment_ids, all [B, T].

  Raises:
    ValueError: If nothing would be asked for.
  """
  n, N = config.num_back, config.num_items
  checks.check_at_least("n_back", n + 1, sequence_length=length)

  def example(key):
    first_key, same_key, shift_key = jax.random.split(key, 3)
    shape = (-(-length // n), n)
    same = jax.random.bernoulli(same_key, shape=shape)
    shift = jnp.where(same, 0, jax.random.randint(shift_key, shape, 1, N))
    shift = shift.at[0].set(jax.random.randint(first_key, (n,), 0, N))
    items = jnp.cumsum(shift, axis=0) % N
    answers = jnp.where(same, YES, NO).at[0].set(BLANK)
    return ITEM + items.reshape(-1)[:length], answers.reshape(-1)[:length]

  return _batch(*jax.vmap(example)(keys))


def memory_updating(
  keys: PRNGKeyArray, config: MemoryUpdatingConfig, length: int
) -> dict[str, Int[Array, "B T"]]:
  """Sequences of memory updating, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The task.
    length: T, at least 3 `set_size` + 1.

  Returns:
    A batch of `data`: inputs, targets, weights (float32) and segment_ids, all [B, T].

  Raises:
    ValueError: If boxes and probes do not fit.
  """
  n = config.set_size
  checks.check_at_least("memory_updating", 3 * n + 1, sequence_length=length)
  updates, spare = divmod(length - 3 * n - 1, 2)

  def example(key):
    boxes_key, cell_key, which_key, move_key, order_key = jax.random.split(key, 5)
    boxes = jax.random.permutation(boxes_key, config.num_boxes)[:n]
    boxes += ITEM + CELLS + MOVES
    first = jax.random.randint(cell_key, (n,), 0, CELLS)
    which = jax.random.randint(which_key, (updates,), 0, n)
    move = jax.random.randint(move_key, (updates,), 1, CELLS)
    # A move by 3 i + j leads i rows down and j columns to the right, modulo 3.
    rows = (first // 3).at[which].add(move // 3) % 3
    columns = (first % 3).at[which].add(move % 3) % 3
    order = jax.random.permutation(order_key, n)
    begun = jnp.stack([boxes, ITEM + first], axis=-1).reshape(-1)
    moves = jnp.stack([boxes[which], ITEM + CELLS - 1 + move], axis=-1).reshape(-1)
    marks = jnp.array([BLANK] * spare + [ASK])
    inputs = jnp.concatenate([begun, moves, marks, boxes[order]])
    answers = ITEM + (3 * rows + columns)[order]
    return inputs, jnp.zeros_like(inputs).at[-n:].set(answers)

  return _batch(*jax.vmap(example)(keys))


def task_switching(
  keys: PRNGKeyArray, config: TaskSwitchingConfig, length: int
) -> dict[str, Int[Array, "B T"]]:
  """Sequences of task switching, a pure function to be jitted.

  Args:
    keys: Random keys [B], one for each sequence.
    config: The task.
    length: T, at least 2, a cue and a mark.

  Returns:
    A batch of `data`: inputs, targets, weights (float32) and segment_ids, all [B, T].

  Raises:
    ValueError: If they do not fit.
  """
  checks.check_at_least("task_switching", 2, sequence_length=length)
  R = config.num_rules

  def example(key):
    first_key, cue_key, rule_key, mark_key = jax.random.split(key, 4)
    cue = jax.random.bernoulli(cue_key, config.switch, (length,))
    cue = cue.at[0].set(True).at[-1].set(False)
    step = jax.random.randint(rule_key, (length,), 1, R)
    step = step.at[0].set(jax.random.randint(first_key, (), 0, R))
    rule = jnp.cumsum(cue * step) % R
    mark = jax.random.randint(mark_key, (length,), 0, 2**R)
    answers = jnp.where(mark >> rule & 1, YES, NO)
    inputs = ITEM + jnp.where(cue, rule, R + mark)
    return inputs, jnp.where(cue, BLANK, answers)

  return _batch(*jax.vmap(example)(keys))


def _batch(inputs, targets):
  return dict(
    inputs=inputs,
    targets=targets,
    weights=(targets != BLANK).astype(jnp.float32),
    segment_ids=jnp.ones(inputs.shape, jnp.int32),
  )
