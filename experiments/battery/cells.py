"""One cell of the battery: a mixer learns a task and is asked.

A cell trains a population, all learning rates and seeds together, for each level of its
task, and gives rows for the table. What is compiled is kept in `Programs`: tasks whose
batches have one shape share it.
"""

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from experiments.battery import cost
from experiments.battery.sizes import Level, Size
from jaxseq import models, parallel, registry, tasks, training

__all__ = [
  *("COLUMNS", "Cell", "Programs", "failed", "is_cell", "model", "run", "state_bytes")
]

COLUMNS = (
  *("mixer", "task", "ability", "question", "difficulty", "length", "trained_length"),
  *("seed", "learning_rate", "best", "metric", "value", "chance", "score"),
  *("parameters", "state_bytes", "flops_per_token", "tokens_per_second"),
  *("compile_seconds", "skipped_steps", "device", "dtype", "versions", "status"),
)

# Streams of keys that never meet: of training, of what chooses the rate, and of what is
# reported.
TRAIN, CHOOSE, REPORT = range(3)


@dataclasses.dataclass(frozen=True)
class Cell:
  """A mixer and a task.

  Attributes:
    mixer: Its name in the registry.
    task: Its name.
    size: What to train; `dataclasses.replace` gives one of other width or steps.
    options: Attributes of the mixer.
    label: How tables call the mixer, its name if None.
    net: A model to take instead of a stack of the mixer.
    probes: More to measure wherever the task is asked, by name: functions of what the
      model returns and of the batch.
  """

  mixer: str
  task: str
  size: Size
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  label: str | None = None
  net: nn.Module | None = None
  probes: Mapping[str, Callable] = dataclasses.field(default_factory=dict)

  @property
  def name(self) -> str:
    return self.label or self.mixer

  def settings(self) -> dict:
    """What its results depend on, as JSON has it."""
    size = dataclasses.asdict(self.size)
    del size["tasks"], size["levels"]
    levels = [dataclasses.asdict(level) for level in self.size.of(self.task)]
    found = dict(mixer=self.mixer, options=dict(self.options), size=size, levels=levels)
    if self.net is not None:
      found["net"] = " ".join(repr(self.net).split())
    return found | ({"probes": list(self.probes)} if self.probes else {})


class Programs:
  """What has been compiled, by what it was made of."""

  def __init__(self):
    self._programs = {}
    self.seconds = 0.0  # Spent compiling.

  def get(self, key, make: Callable, *shapes: Any, **options):
    """`jax.jit(make(), **options)`, compiled for such arrays."""
    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), shapes
    )
    leaves, structure = jax.tree.flatten(shapes)
    key = (key, structure, *((s.shape, s.dtype) for s in leaves))
    if key not in self._programs:
      start = time.perf_counter()
      program = jax.jit(make(), **options).lower(*shapes).compile()
      self._programs[key] = program
      self.seconds += time.perf_counter() - start
    return self._programs[key]


def is_cell(mixer: str, task: str) -> bool:
  """Whether a mixer can be asked: for each token it must not see those that come."""
  return tasks.task(task).predicts == "class" or registry.entry(mixer).causal


def model(cell: Cell, level: Level) -> nn.Module:
  """The model of a level, the same for all tasks whose shapes are the same."""
  if cell.net is not None:
    return cell.net
  size, task = cell.size, tasks.task(cell.task)
  config = task.config(**level.fields)
  backbone = models.BackboneConfig(
    size.features,
    size.num_layers,
    (cell.mixer,),
    num_heads=size.num_heads,
    max_length=max(size.max_length, *(n for *_, n in level.questions())),
    mixer_options={cell.mixer: dict(cell.options)},
    mlp=size.mlp,
    dtype=jnp.float32,
  )
  ids = getattr(config, "vocab_size", None)
  ids = ids and max(ids, size.vocab_size)
  if task.predicts == "tokens":
    return models.LanguageModel(backbone, ids)
  if task.predicts == "numbers":
    return models.TokenRegressor(backbone, config.num_outputs)
  return models.Classifier(backbone, config.num_outputs, ids)


def run(cell: Cell, data: Programs, programs: Programs) -> list[dict]:
  """Rows of the table.

  Args:
    cell: What to run.
    data: Programs that make batches, which do not depend on the mixer.
    programs: Those that do.

  Raises:
    NonFiniteError: If no member of a population could be trained.
  """
  return [
    row
    for level in cell.size.of(cell.task)
    for row in _level(cell, level, data, programs)
  ]


def failed(cell: Cell, error: Exception) -> dict:
  """The one row of a cell that could not be run."""
  lines = str(error).strip().splitlines() or [""]
  return dict(
    mixer=cell.name,
    task=cell.task,
    ability=tasks.task(cell.task).ability,
    device=jax.devices()[0].device_kind,
    versions=_versions(),
    status=f"failed: {type(error).__name__}: {lines[0][:300]}",
  )


def _versions() -> str:
  return f"jax {jax.__version__}, flax {flax.__version__}"


def _level(cell, level, data, programs):
  """The rows of one level."""
  size, task = cell.size, tasks.task(cell.task)
  before, net = programs.seconds, model(cell, level)
  population, speed = _train(cell, level, net, data, programs)

  def ask(fields, length, stream):
    """Values and scores of the members, and the chance."""
    config = task.config(**fields)
    held_out = _batches(data, task, config, length, size, stream)
    values = _evaluate(programs, task.metric, net, population.params, held_out)
    chance = _chance(task, config, held_out)
    if task.metric == "accuracy":
      return values, (values - chance) / (1 - chance), chance
    return values, 1 - values / chance, chance

  _, worth, _ = ask(level.fields, level.length, CHOOSE)
  best = _best_rate(size, worth, np.asarray(population.states.skipped))
  level_of = dict(
    mixer=cell.name,
    task=task.name,
    ability=task.ability,
    trained_length=level.length,
    parameters=sum(math.prod(x.shape[1:]) for x in jax.tree.leaves(population.params)),
    flops_per_token=_flops(net, task, level) / level.length,
    tokens_per_second=speed,
    device=jax.devices()[0].device_kind,
    dtype="float32",
    versions=_versions(),
    status="done",
  )
  rows = []

  def members(asked, values, scores=None):
    """Adds a row for each."""
    for i, (seed, rate) in enumerate(itertools.product(size.seeds, size.rates)):
      of_member = dict(
        seed=seed,
        learning_rate=rate,
        best=int(rate == best),
        value=float(values[i]),
        score=None if scores is None else float(scores[i]),
        skipped_steps=int(population.states.skipped[i]),
      )
      rows.append(level_of | asked | of_member)

  for question, name, fields, length in level.questions():
    values, scores, chance = ask(fields, length, REPORT)
    asked = dict(question=question, difficulty=name, length=length, chance=chance)
    asked["state_bytes"] = None if cell.net else state_bytes(net, cell.mixer, length)
    members(asked | dict(metric=task.metric), values, scores)
    for probe, function in cell.probes.items():
      held_out = _batches(data, task, task.config(**fields), length, size, REPORT)
      values = _evaluate(programs, probe, net, population.params, held_out, function)
      asked |= dict(question="probe", difficulty=f"{name}: {probe}", chance=None)
      members(asked | dict(metric=probe), values)
  return [row | dict(compile_seconds=programs.seconds - before) for row in rows]


def _best_rate(size, scores, skipped) -> float:
  """The learning rate whose mean over the seeds is largest.

  Raises:
    NonFiniteError: If no rate gave all seeds a score, or none could train.
  """
  if (skipped > size.steps / 2).all():
    raise training.NonFiniteError(
      f"{skipped.min()} of {size.steps} steps or more had a loss or gradient that was "
      "not finite, at each rate and seed"
    )
  # A rate that diverged is as bad as can be, not unknown.
  means = np.nan_to_num(scores, nan=-np.inf).reshape(len(size.seeds), -1).mean(axis=0)
  if not np.isfinite(means.max()):
    raise training.NonFiniteError("no learning rate gave all seeds a finite score")
  return size.rates[means.argmax()]


def _train(cell, level, net, data, programs):
  """The trained population, and tokens a second of all its members."""
  size, task = cell.size, tasks.task(cell.task)
  config = task.config(**level.fields)
  optimizer = training.OptimizerConfig(
    total_steps=size.steps,
    warmup_steps=size.steps // 10,
    weight_decay=size.weight_decay,
  )

  def begin(seeds, inputs):
    init = lambda key: nn.unbox(net.init(key, inputs)["params"])
    return training.create_population(init, optimizer, seeds, size.rates)

  def loss(params, batch, key):
    return net.apply({"params": params}, batch, method="loss")

  seconds = 0.0
  for n in range(0, size.steps, size.steps_per_call):
    batches = _training_batches(data, task, config, level.length, size, n)
    if n == 0:
      args = jnp.asarray(size.seeds), jnp.zeros_like(batches["inputs"][0, 0, :1])
      key = "begin", net, optimizer, size.rates
      population = programs.get(key, lambda: begin, *args)(*args)
      population = training.over_data(_mesh(), population)
      places = jax.tree.map(lambda x: x.sharding, population)
    advance = programs.get(
      ("steps", net, optimizer),
      lambda: training.make_population_steps(loss, optimizer),
      *(population, batches),
      donate_argnums=0,
      out_shardings=(places, None),
    )
    jax.block_until_ready(batches)
    began = time.perf_counter()
    population, _ = jax.block_until_ready(advance(population, batches))
    seconds += time.perf_counter() - began
  members = len(size.seeds) * len(size.rates)
  return population, members * size.steps * size.batch_size * level.length / seconds


def _mesh():
  return parallel.make_mesh(parallel.MeshConfig())


def _everywhere(tree):
  """On each device; the members of a population lie apart."""
  return jax.device_put(tree, NamedSharding(_mesh(), PartitionSpec()))


def _training_batches(data, task, config, length, size, first):
  """Trees of [steps, seeds, B, ...], from step number `first` on."""
  K, S, B = size.steps_per_call, len(size.seeds), size.batch_size

  def make(seeds, first):
    def keys(step, seed):
      key = jax.random.fold_in(jax.random.key(seed), TRAIN)
      return jax.random.split(jax.random.fold_in(key, step), B)

    grid = jax.vmap(jax.vmap(keys, (None, 0)), (0, None))(first + jnp.arange(K), seeds)
    batch = task.batch(grid.reshape(-1), config, length)
    batch.pop("optimum", None)
    return jax.tree.map(lambda x: x.reshape(K, S, B, *x.shape[1:]), batch)

  args = jnp.asarray(size.seeds), jnp.int32(first)
  key = ("training", task.name, config, length, K, B)
  return _everywhere(data.get(key, lambda: make, *args)(*args))


def _batches(data, task, config, length, size, stream):
  """Held-out trees of [batches, B, ...]."""
  config = tasks.held_out(config)
  E, B = size.held_out_batches, size.batch_size

  def make(stream):
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), stream), E * B)
    batch = task.batch(keys, config, length)
    return jax.tree.map(lambda x: x.reshape(E, B, *x.shape[1:]), batch)

  key = ("held out", task.name, config, length, E, B)
  stream = jnp.int32(stream)
  return _everywhere(data.get(key, lambda: make, stream)(stream))


def _chance(task, config, held_out):
  if task.metric == "accuracy":
    return float(config.chance)
  whole = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), held_out)
  return tasks.chance(task.metric, config, whole)


def _evaluate(programs, metric, net, params, held_out, probe=None) -> np.ndarray:
  """The metric of each member, or the probe, over all held-out batches."""
  if metric == "divergence":  # The model may know more ids than the task.
    more = net.vocab_size - held_out["optimum"].shape[-1]
    pad = [(0, 0)] * (held_out["optimum"].ndim - 1) + [(0, more)]
    held_out = held_out | {"optimum": jnp.pad(held_out["optimum"], pad)}

  def member(params, batch):
    outputs = net.apply(
      {"params": params}, batch["inputs"], segment_ids=batch["segment_ids"]
    )
    if probe is not None:
      return probe(outputs, batch)
    outputs = outputs[0] if isinstance(outputs, tuple) else outputs
    return tasks.measure(metric, outputs, batch)

  def evaluate(params, held_out):
    def step(sums, batch):
      weight = jnp.sum(batch["weights"])
      value = jax.vmap(member, (0, None))(params, batch)
      return (sums[0] + weight * value, sums[1] + weight), None

    members = jax.tree.leaves(params)[0].shape[0]
    zeros = jnp.zeros(members), jnp.zeros(())
    (value, weight), _ = jax.lax.scan(step, zeros, held_out)
    return value / weight

  program = programs.get(("evaluate", metric, net), lambda: evaluate, params, held_out)
  return np.asarray(program(params, held_out))


def _flops(net, task, level) -> int:
  """Of a forward pass over one sequence."""
  config = task.config(**level.fields)
  key = jax.random.key(0)
  make = lambda: task.batch(jax.random.split(key, 1), config, level.length)["inputs"]
  inputs = jax.eval_shape(make)
  params = jax.eval_shape(lambda x: nn.unbox(net.init(key, x)), inputs)
  return cost.flops(net.apply, params, inputs)


def state_bytes(net: nn.Module, mixer: str, length: int) -> int | None:
  """Of the state of one sequence after so many tokens; None if there is none."""
  kind = registry.entry(mixer).state
  if kind == "none":
    return None
  config = net.config
  if kind != "constant":
    try:
      config = dataclasses.replace(config, max_length=length)
    except ValueError:  # Its window cannot be that short.
      pass
  shapes = jax.eval_shape(lambda: models.Backbone(config).initial_state(1))
  return sum(math.prod(s.shape) * s.dtype.itemsize for s in jax.tree.leaves(shapes))
