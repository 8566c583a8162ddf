"""How large the battery is: models, training, and the levels of each task.

A task without an entry here is asked at its config's defaults, with a vocabulary no
larger than the size's, at the size's length and its multiples.
"""

import dataclasses
import functools
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
        make = functools.partial(tasks.task(task).batch, config=config, length=length)
        jax.eval_shape(make, keys)
      except (TypeError, ValueError) as error:
        raise ValueError(
          f"size {size.name} cannot ask {task} at {name!r}, length {length}: {error}"
        ) from error


def levels(T: int, W: int) -> dict[str, tuple[Level, ...]]:
  """All tasks at training sequences of T tokens and W ids.

  Tasks over ids share T and, but for the groups A5 and S5, few ids; those over
  numbers share what they can, so that a mixer is compiled few times.
  """
  longer = 2 * T, 4 * T
  one = lambda *args, **fields: (level(*args, **fields),)
  n, m = T // 10, T // 4
  worm = dict(set_size=3, num_items=8)
  small_arrows = dict(patch_size=8, radius=(2, 3), arrow_length=(3, 4), margin=4)
  return dict(
    # Recall.
    mqar=one(f"{n} pairs", T, vocab_size=W, num_pairs=n),
    induction_heads=one("16 ids", T, longer, vocab_size=16),
    in_context_recall=one("16 ids", T, vocab_size=16),
    noisy_recall=one("20% noise", T, vocab_size=24, noise_vocab_size=8),
    fuzzy_recall=one("up to 3 tokens", T, vocab_size=16),
    memorization=one(f"{W} ids", T, vocab_size=W),
    ngram_lookup=one("2-grams", T, vocab_size=27, key_length=2, answer_length=3),
    phone_book=one(f"{n} names", T, num_names=n, number_length=3),
    joint_recall=one("2 x 3", T, num_contexts=2, num_keys=3, num_values=8),
    set_disjointness=one(f"{n} of {n}", T, vocab_size=T + 2, set_size=n),
    needle=one("2 needles", T, longer, num_needles=2, number_length=3),
    passkey=one("5 digits", T, longer),
    # Copying.
    selective_copying=one(f"{m} tokens", T, longer, vocab_size=10, num_tokens=m),
    compression=one("15 ids", T, num_tokens=15, max_places=T),
    string_copying=one("9 ids", T, longer, vocab_size=10),
    # State tracking.
    parity=one("bits", T, longer),
    modular_addition=one("mod 5", T, longer),
    s3=one("all of S3", T, longer),
    a5=one("all of A5", T, longer),
    s5=one("all of S5", T, longer),
    flip_flop=one("10% writes", T, longer),
    bounded_dyck=one("depth 5", T, longer, num_kinds=2),
    tomita=one("language 3", T, longer),
    star_free=one("depth 4", T, longer),
    counter_language=one("up to 5", T, longer, max_count=5),
    shuffle_dyck=one("2 kinds", T, longer),
    even_pairs=one("bits", T, longer),
    cycle_navigation=one("5 places", T, longer),
    modular_arithmetic=one("mod 5", T, longer),
    reverse_string=one("bits", T, longer),
    stack_manipulation=one("bits", T, longer),
    modular_arithmetic_brackets=one("mod 5", T, longer),
    solve_equation=one("mod 5", T, longer),
    duplicate_string=one("bits", T, longer),
    missing_duplicate=one("bits", T, longer),
    odds_first=one("bits", T, longer),
    bucket_sort=one("5 ids", T, longer),
    binary_addition=one("bits", T, longer),
    counting=one("up to 5", T, longer, vocab_size=16, max_count=5),
    # In-context learning.
    linear_regression=one("4 dims", T, longer, num_dims=4),
    sparse_linear_regression=one("1 of 4 dims", T, longer, num_dims=4, num_nonzero=1),
    fourier_regression=one("3 waves", T, longer),
    regression_mixture=one("4 of 4 dims", T, longer, num_dims=4, num_components=4),
    discrete_functions=one("4 bits", T, longer, num_bits=4),
    markov_chains=one("2 ids", T, longer),
    automata=one("8 states", T, longer),
    # Memory.
    worm_serial_recall=one("3 of 8", T, **worm),
    worm_serial_recognition=one("3 of 8", T, **worm),
    worm_free_recall=one("3 of 8", T, **worm),
    worm_item_recognition=one("3 of 8", T, **worm),
    worm_change_detection=one("3 of 8", T, **worm),
    worm_feature_binding=one("3 of 8", T, **worm),
    worm_spatial_coordination=one("4 of 8", T, set_size=4, num_items=8),
    worm_complex_span=one("3 of 8", T, **worm),
    worm_memory_updating=one("3 boxes", T, set_size=3, num_boxes=8),
    worm_task_switching=one("2 rules", T, longer),
    n_back=one("2 back", T, longer, num_items=8),
    # Long range.
    listops=one("depth 4", 2 * T, longer=(4 * T,), max_depth=4, max_args=5),
    pathfinder=one("16 pixels", 256, num_dashes=4, num_distractors=1, step=0.22),
    # Images.
    pixel_digits=one("8 pixels", 64),
    arrow_pointing=one("40 pixels", 25, longer=(49,), **small_arrows),
  )


DEFAULT_TASKS = (
  *("mqar", "induction_heads", "selective_copying", "s3", "parity", "markov_chains"),
)
MORE_TASKS = (
  *("mqar", "induction_heads", "fuzzy_recall", "joint_recall"),
  *("selective_copying", "string_copying", "s3", "s5", "parity", "flip_flop"),
  *("linear_regression", "markov_chains", "automata", "worm_serial_recall"),
  *("listops", "pixel_digits"),
)

SMALLEST = Size(
  name="smallest",
  features=32,
  num_layers=2,
  num_heads=4,
  mlp="none",
  vocab_size=48,
  length=32,
  longer=(64, 128),
  max_length=128,
  batch_size=32,
  steps=450,
  steps_per_call=50,
  rates=(2e-3, 5e-3),
  seeds=(0, 1),
  weight_decay=0.01,
  held_out_batches=8,
  tasks=DEFAULT_TASKS,
  levels=levels(32, 16),
)
SMALL = dataclasses.replace(
  SMALLEST,
  name="small",
  features=64,
  vocab_size=80,
  length=64,
  longer=(128, 256),
  max_length=256,
  batch_size=64,
  steps=1000,
  rates=(1e-3, 3e-3, 1e-2),
  tasks=MORE_TASKS,
  levels=levels(64, 64),
)
PAPER = dataclasses.replace(
  SMALL,
  name="paper",
  features=128,
  mlp="swiglu",
  vocab_size=144,
  length=128,
  longer=(256, 512),
  max_length=512,
  steps=3000,
  seeds=(0, 1, 2),
  levels=levels(128, 128),
)

SIZES = {size.name: size for size in (SMALLEST, SMALL, PAPER)}
