import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import models, parallel, tasks, testing, training

CONFIG = training.OptimizerConfig(
  total_steps=6, warmup_steps=2, weight_decay=0.1, clip_norm=0.5
)
SEEDS, RATES = (3, 8), (1e-3, 3e-2)
MODEL = models.LanguageModel(
  models.BackboneConfig(8, 1, ("gla",), num_heads=1, mlp="none", dtype=jnp.float32), 4
)
TASK = tasks.task("induction_heads")


def init(key):
  return nn.unbox(MODEL.init(key, jnp.zeros((1, 5), jnp.int32)))["params"]


def loss_fn(params, batch, key):
  return MODEL.apply({"params": params}, batch, method="loss")


def batches(steps=6):
  """[steps, seeds, B, T]"""
  keys = jax.random.split(jax.random.key(0), steps * len(SEEDS) * 4)
  batch = TASK.batch(keys, TASK.config(vocab_size=4), 5)
  return jax.tree.map(lambda x: x.reshape(steps, len(SEEDS), 4, *x.shape[1:]), batch)


def at(tree, *index):
  return jax.tree.map(lambda x: x[index], tree)


@pytest.fixture(scope="module")
def trained():
  steps = jax.jit(training.make_population_steps(loss_fn, CONFIG))
  population = training.create_population(init, CONFIG, SEEDS, RATES)
  return steps, population, *steps(population, batches())


def alone(seed, rate):
  """One run, step by step, as `experiments.train` makes it."""
  config = dataclasses.replace(CONFIG, learning_rate=RATES[rate])
  rule = training.make_optimizer(config)
  init_key, key = jax.random.split(jax.random.key(SEEDS[seed]))
  state = training.create(init(init_key), rule, key, ema=False)
  step = jax.jit(training.make_step(loss_fn, rule, training.schedule(config)))
  measured = []
  for n in range(6):
    state, metrics = step(state, at(batches(), n, seed))
    measured.append(metrics)
  return state, jax.tree.map(lambda *x: jnp.stack(x), *measured)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_population_is_the_runs_one_by_one(trained, name, monkeypatch):
  steps, population, after, metrics = trained
  if name == "muon":
    config = dataclasses.replace(CONFIG, name="muon")
    monkeypatch.setitem(globals(), "CONFIG", config)
    population = training.create_population(init, config, SEEDS, RATES)
    steps = jax.jit(training.make_population_steps(loss_fn, config))
    after, metrics = steps(population, batches())
  for member, (seed, rate) in enumerate(np.ndindex(2, 2)):
    state, measured = alone(seed, rate)
    assert population.rates[member] == np.float32(RATES[rate])
    testing.assert_close(at(after.params, member), state.params)
    testing.assert_close(at(metrics, slice(None), member), measured)


def test_a_member_that_diverges_keeps_its_parameters_and_leaves_the_others(trained):
  steps, population, after, _ = trained
  poisoned = batches()
  poisoned["weights"] = poisoned["weights"].at[2:, 1].set(np.nan)
  other, _ = steps(population, poisoned)
  np.testing.assert_array_equal(other.states.skipped, [0, 0, 4, 4])
  short, _ = steps(population, at(batches(), slice(2)))
  for seed, want in ((slice(2), after), (slice(2, 4), short)):
    testing.assert_close(at(other.params, seed), at(want.params, seed))


def test_members_lie_on_the_data_axis_and_learn_the_same_there(trained):
  steps, population, after, _ = trained
  mesh = parallel.make_mesh(parallel.MeshConfig(data=2), jax.devices()[:2])
  spread = training.over_data(mesh, population)
  assert {s.data.shape for s in spread.rates.addressable_shards} == {(2,)}
  result, _ = steps(spread, batches())
  testing.assert_close(result.params, after.params)
  three = parallel.make_mesh(parallel.MeshConfig(data=3), jax.devices()[:3])
  whole = training.over_data(three, population)
  assert {s.data.shape for s in whole.rates.addressable_shards} == {(4,)}


def test_a_rate_that_cannot_train_is_refused():
  with pytest.raises(ValueError, match=r"rates above 0; got \[0\] and \[0.0\]"):
    training.create_population(init, CONFIG, [0], [0.0])
