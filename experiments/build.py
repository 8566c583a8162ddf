"""From a config to checked parts. Every error in a config is found here, uncompiled."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxseq import data, models, parallel, training

__all__ = ["FREE", "Experiment", "build", "dtype"]

# Fields that a run may be resumed with other values of.
FREE = ("mesh", "log_every", "eval_every", "checkpoint_every", "max_skipped")

# Of a router's loss beside that of the model, by weight; as in MoM's and Switch's code.
BALANCE_WEIGHT = 0.01

TASKS = ("language_model", "token_regression", "classification", "regression")


@dataclasses.dataclass(frozen=True)
class Experiment:
  """The parts of a run.

  Attributes:
    config: What they were made from.
    source: The data.
    model: A `models` class with a `loss`.
    optimizer: Its config.
    mesh: Over all devices.
    state_shapes: A `training.TrainState` of shapes and places.
  """

  config: ml_collections.ConfigDict
  source: Any
  model: nn.Module
  optimizer: training.OptimizerConfig
  mesh: Mesh
  state_shapes: training.TrainState

  def loss(self, params, batch, key):
    del key  # No model here is random.
    return self.model.apply({"params": params}, batch, method="loss")

  def training_loss(self, params, batch, key):
    """`loss`, and for each router of the model what keeps its parts in use."""
    del key
    (loss, sums), sown = self.model.apply(
      {"params": params}, batch, method="loss", mutable=["losses"]
    )
    balance = sum(jnp.sum(x) for x in jax.tree.leaves(sown))
    return loss + BALANCE_WEIGHT * balance * sums["weight"], sums

  def init(self, key) -> training.TrainState:
    """The state before the first step."""
    init_key, key = jax.random.split(key)
    length = self.config.sequence_length
    params = nn.unbox(_init(self.model, self.source, length, init_key))
    optimizer = training.make_optimizer(self.optimizer)
    return training.create(params, optimizer, key, ema=self.config.ema_decay > 0)

  def fresh_state(self) -> training.TrainState:
    """`init` on the mesh, each array made where it lies."""
    places = jax.tree.map(lambda s: s.sharding, self.state_shapes)
    return jax.jit(self.init, out_shardings=places)(jax.random.key(self.config.seed))

  def step(self):
    """The compiled step: state, batch -> state, metrics. The state given is used up."""
    step = training.make_step(
      self.training_loss,
      training.make_optimizer(self.optimizer),
      training.schedule(self.optimizer),
      accumulate_steps=self.config.accumulate_steps,
      ema_decay=self.config.ema_decay or None,
    )
    places = jax.tree.map(lambda s: s.sharding, self.state_shapes)
    return jax.jit(step, donate_argnums=0, out_shardings=(places, None))

  def evaluation(self):
    """The compiled evaluation: state, batch -> summed metrics."""
    return jax.jit(training.make_evaluation(self.loss))


def dtype(name: str, platform: str):
  """The dtype of that name; "auto" is bfloat16 but on a CPU, where it is slow."""
  if name == "auto":
    name = "float32" if platform == "cpu" else "bfloat16"
  if name not in ("float32", "bfloat16"):
    raise ValueError(f"dtype must be auto, float32 or bfloat16; got {name!r}")
  return jnp.dtype(name)


def model_config(c: ml_collections.ConfigDict, platform: str) -> models.BackboneConfig:
  """The stack that the fields mixer, mixer_options and model describe."""
  fields = dict(c.model)
  fields.pop("tie_embeddings", None)
  fields["dtype"] = dtype(fields.pop("dtype", "auto"), platform)
  names = {f.name for f in dataclasses.fields(models.BackboneConfig)}
  unknown = sorted(set(fields) - names)
  if unknown:
    raise ValueError(f"model has no field {', '.join(unknown)}; it has {sorted(names)}")
  return models.BackboneConfig(
    pattern=tuple(c.mixer.replace(" ", "").split(",")),
    mixer_options=c.mixer_options.to_dict(),
    **fields,
  )


def make_model(c: ml_collections.ConfigDict, source, platform: str) -> nn.Module:
  """The model for the task, over the ids or numbers of the source."""
  config = model_config(c, platform)
  language = c.task == "language_model"
  if c.task in TASKS and language != (source.num_outputs is None):
    kind = "tokens to predict" if language else "a class or numbers to predict"
    raise ValueError(
      f"task {c.task!r} needs data with {kind}; {c.data.name!r} has none"
    )
  if language:
    tie = c.model.get("tie_embeddings", True)
    return models.LanguageModel(config, source.vocab_size, tie_embeddings=tie)
  if c.task == "classification":
    return models.Classifier(config, source.num_outputs, source.vocab_size)
  if c.task == "token_regression":
    return models.TokenRegressor(config, source.num_outputs)
  if c.task == "regression":
    return models.Regressor(config, source.num_outputs, source.vocab_size)
  raise ValueError(f"task must be one of {TASKS}; got {c.task!r}")


def _init(model, source, length, key):
  """Boxed parameters. One example shows every shape; a grid must fit its length."""
  shape = (1, length) if source.vocab_size else (1, length, source.num_inputs)
  inputs = jnp.zeros(shape, jnp.int32 if source.vocab_size else jnp.float32)
  return model.init(key, inputs)["params"]


def build(c: ml_collections.ConfigDict, devices=None) -> Experiment:
  """Checks a config and makes its parts, on all devices or those given.

  Raises:
    ValueError: If a field is wrong; the message is one line.
  """
  for field in ("accumulate_steps", "log_every", "eval_every", "checkpoint_every"):
    if c[field] < 1:
      raise ValueError(f"{field} must be at least 1; got {c[field]}")
  if c.eval_batches < 0 or c.max_skipped < 1 or not 0 <= c.ema_decay < 1:
    raise ValueError(
      "eval_batches must be at least 0, max_skipped at least 1, ema_decay in [0, 1); "
      f"got {c.eval_batches}, {c.max_skipped} and {c.ema_decay}"
    )
  mesh = parallel.make_mesh(parallel.MeshConfig(**c.mesh), devices)
  rows = mesh.shape["data"] * mesh.shape["fsdp"] * c.accumulate_steps
  if c.batch_size < 1 or c.batch_size % rows:
    raise ValueError(
      f"batch_size must be a multiple of data x fsdp x accumulate_steps = {rows}; "
      f"got {c.batch_size}"
    )
  if c.sequence_length < 1 or c.sequence_length % mesh.shape["sequence"]:
    raise ValueError(
      f"sequence_length must be a multiple of the sequence axis of the mesh, "
      f"{mesh.shape['sequence']}; got {c.sequence_length}"
    )
  source = data.make(**c.data)
  batch = next(source.train(c.batch_size, c.sequence_length, c.seed))
  model = make_model(c, source, mesh.devices.flat[0].platform)
  optimizer = training.OptimizerConfig(total_steps=c.total_steps, **c.optimizer)
  init = lambda key: _init(model, source, c.sequence_length, key)
  boxed = jax.eval_shape(init, jax.random.key(0))
  experiment = Experiment(c, source, model, optimizer, mesh, None)
  shapes = jax.eval_shape(experiment.init, jax.random.key(0))
  jax.eval_shape(experiment.loss, shapes.params, batch, shapes.key)  # They must fit.
  places = _state_places(mesh, boxed, shapes)
  shapes = jax.tree.map(
    lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place),
    shapes,
    places,
  )
  return dataclasses.replace(experiment, state_shapes=shapes)


def _state_places(mesh, boxed, shapes: training.TrainState):
  """Moments and averages lie where their parameters do, all else on every device."""
  params = parallel.shardings(mesh, boxed)
  everywhere = NamedSharding(mesh, PartitionSpec())
  by_path = {
    path: place for path, place in jax.tree_util.tree_flatten_with_path(params)[0]
  }

  def place(path, leaf):
    # A parameter's path ends the path of each array of the optimizer that is like it.
    for start in range(len(path)):
      if path[start:] in by_path and len(by_path[path[start:]].spec) == leaf.ndim:
        return by_path[path[start:]]
    return everywhere

  return jax.tree_util.tree_map_with_path(place, shapes)
