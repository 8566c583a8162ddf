"""Runs that differ in seed and learning rate, trained together.

The members of a population share one compiled step, `jax.vmap` of `make_step`. All
rates of a seed begin alike and see the same batches:

    member    0    1    2    3    4    5          3 rates, 2 seeds
    seed      a    a    a    b    b    b
    rate      1    2    3    1    2    3

Adam's and Muon's updates, weight decay included, are linear in the learning rate, so
that of a member is the update at rate 1 times its own.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxseq.training import optimizer, state, step

__all__ = ["Population", "create_population", "make_population_steps", "over_data"]


@flax.struct.dataclass
class Population:
  """The members, M in number.

  Attributes:
    states: A `TrainState` whose arrays have the members as first axis.
    rates: Learning rate of each at its peak.
    seeds: Which of the seeds each has, by place.
  """

  states: state.TrainState
  rates: Float[Array, "M"]
  seeds: Int[Array, "M"]

  @property
  def params(self):
    return self.states.params


def create_population(
  init: Callable[[PRNGKeyArray], Any],
  config: optimizer.OptimizerConfig,
  seeds: Sequence[int],
  rates: Sequence[float],
) -> Population:
  """The population before the first step: all rates of the first seed, and so on.

  Args:
    init: Makes a member's parameters.
    config: Of the optimizer; its `learning_rate` is not used.
    seeds: Of the parameters, and of what is random in a step.
    rates: Learning rates.

  Raises:
    ValueError: If there is no seed, no rate, or a rate that is not above 0.
  """
  if not len(seeds) or not len(rates) or min(rates) <= 0:
    raise ValueError(
      "create_population needs seeds, and rates above 0; "
      f"got {list(seeds)} and {list(rates)}"
    )
  rule = _at_rate(config, 1.0)[0]

  def member(key):
    init_key, key = jax.random.split(key)
    return state.create(init(init_key), rule, key, ema=False)

  keys = jax.vmap(jax.random.key)(jnp.repeat(jnp.asarray(seeds), len(rates)))
  return Population(
    jax.vmap(member)(keys),
    jnp.tile(jnp.asarray(rates, jnp.float32), len(seeds)),
    jnp.repeat(jnp.arange(len(seeds)), len(rates)),
  )


def make_population_steps(loss_fn: step.LossFn, config: optimizer.OptimizerConfig):
  """A function of population and batches that trains all members on all of them.

  Its second argument is a tree of arrays [steps, seeds, ...]. It returns the next
  population and the metrics of `make_step`, [steps, M]. A member whose loss or gradient
  is not finite keeps its parameters in that step; the others do not notice.

  Args:
    loss_fn: See `LossFn`.
    config: Of the optimizer; its `learning_rate` is not used.
  """

  def member(one, rate, batch):
    return step.make_step(loss_fn, *_at_rate(config, rate))(one, batch)

  def steps(population: Population, batches):
    def advance(states, batch):
      batch = jax.tree.map(lambda x: x[population.seeds], batch)
      return jax.vmap(member)(states, population.rates, batch)

    states, metrics = jax.lax.scan(advance, population.states, batches)
    return population.replace(states=states), metrics

  return steps


def over_data(mesh: Mesh, population: Population) -> Population:
  """Lays the members out over the mesh's data axis.

  If it does not divide their number, each device has all of them.
  """
  divides = len(population.rates) % mesh.shape["data"] == 0
  place = NamedSharding(mesh, PartitionSpec("data" if divides else None))
  return jax.device_put(population, place)


def _at_rate(config, rate):
  """The optimizer and its schedule at that learning rate, which may be traced."""
  config = dataclasses.replace(config, learning_rate=1.0)
  shape = optimizer.schedule(config)
  rule = optax.chain(optimizer.make_optimizer(config), optax.scale(rate))
  return rule, lambda count: rate * shape(count)
