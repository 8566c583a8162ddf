"""How large the battery is: models, training, and the levels of each task.

A task without an entry here is asked at its config's defaults, with a vocabulary no
larger than the size's, at the size's length and its multiples.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from jaxseq import tasks

__all__ = ["SIZES", "Level", "Size", "check", "level"]


@dataclasses.dataclass(frozen=True)
class Level:
  """A task at one difficulty: what is trained, and what is asked afterwards.

  Attributes:
    name: Of the difficulty.
    fields: Of the task's config.
    length: T of the training sequences, at which the task is asked too.
    longer: Further lengths at which it is asked.
    harder: Further difficulties asked for: by name, fields that change, and a length.
  """

  name: str
  fields: Mapping[str, Any]
  length: int
  longer: tuple[int, ...] = ()
  harder: Mapping[str, tuple[Mapping[str, Any], int]] = dataclasses.field(
    default_factory=dict
  )

  def questions(self) -> list[tuple[str, str, dict, int]]:
    """Kind, name, fields and length of all that is asked.

    The kind is "trained", of the first, "longer" or "harder".
    """
    fields = dict(self.fields)
    return [
      ("trained", self.name, fields, self.length),
      *(("longer", self.name, fields, length) for length in self.longer),
      *(
        ("harder", name, fields | dict(changed), length)
        for name, (changed, length) in self.harder.items()
      ),
    ]


@dataclasses.dataclass(frozen=True)
class Size:
  """What all cells of a battery have in common.

  Attributes:
    name: Of the size.
    features: Width of the models.
    num_layers: Their depth.
    num_heads: See `models.BackboneConfig`.
    mlp: Likewise.
    vocab_size: Of all models over tokens, so that one program serves all tasks.
    length: Of training sequences, where a level does not say.
    longer: Lengths asked as well, where a level does not say.
    max_length: Tokens that caches and filters are made for.
    batch_size: Sequences of a step.
    steps: Of training.
    steps_per_call: Of these, in one call of the compiled program.
    rates: Learning rates; the best by its mean over the seeds is reported.
    seeds: Each with its own parameters and data.
    weight_decay: See `training.OptimizerConfig`.
    held_out_batches: Of `batch_size` sequences: some choose the rate, as many are
      reported.
    tasks: Those run if none are named.
    levels: By task.
  """

  name: str
  features: int
  num_layers: int
  num_heads: int | None
  mlp: str
  vocab_size: int
  length: int
  longer: tuple[int, ...]
  max_length: int
  batch_size: int
  steps: int
  steps_per_call: int
  rates: tuple[float, ...]
  seeds: tuple[int, ...]
  weight_decay: float
  held_out_batches: int
  tasks: tuple[str, ...]
  levels: Mapping[str, tuple[Level, ...]]

  def __post_init__(self):
    if self.steps < 2 or self.steps % self.steps_per_call:
      raise ValueError(
        f"size {self.name} needs steps >= 2, a multiple of steps_per_call = "
        f"{self.steps_per_call}; got {self.steps}"
      )

  def of(self, task: str) -> tuple[Level, ...]:
    """The levels of a task."""
    if task in self.levels:
      return self.levels[task]
    config = tasks.task(task).config
    names = {f.name: f.default for f in dataclasses.fields(config)}
    fields = {}
    if isinstance(names.get("vocab_size"), int):
      fields["vocab_size"] = min(names["vocab_size"], self.vocab_size)
    return (level("default", self.length, self.longer, **fields),)


def level(name: str, length: int, longer: tuple[int, ...] = (), **fields) -> Level:
  return Level(name, fields, length, longer)


def check(size: Size, task: str) -> None:
  """Makes the shapes of all that is trained and asked.

  Raises:
    ValueError: If a field or a length does not fit the task.
  """
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
  for one in size.of(task):
    for _, name, fields, length in one.questions():
      try:
        config = tasks.task(task).config(**fields)
        jax.eval_shape(lambda k: tasks.task(task).batch(k, config, length), keys)  # noqa: B023
      except (TypeError, ValueError) as error:
        raise ValueError(
          f"size {size.name} cannot ask {task} at {name!r}, length {length}: {error}"
        ) from error


SMALLEST = Size(
  name="smallest",
  features=32,
  num_layers=2,
  num_heads=2,
  mlp="none",
  vocab_size=32,
  length=32,
  longer=(64, 128),
  max_length=128,
  batch_size=32,
  steps=600,
  steps_per_call=50,
  rates=(3e-3, 1e-2),
  seeds=(0, 1),
  weight_decay=0.01,
  held_out_batches=4,
  tasks=("mqar", "induction_heads", "selective_copying", "parity"),
  levels=dict(
    mqar=(level("4 pairs", 32, vocab_size=32, num_pairs=4),),
    induction_heads=(level("16 ids", 32, (64, 128), vocab_size=16),),
    selective_copying=(level("8 tokens", 32, (64, 128), vocab_size=10, num_tokens=8),),
  ),
)

SIZES = {size.name: size for size in (SMALLEST,)}
