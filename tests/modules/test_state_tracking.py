"""Parity is learned, at lengths never trained on, by negative eigenvalues alone.

(Grazzi et al. 2024, arXiv:2411.12537, sec. 5.1, in small. Notebook 02, which the tests
run, asserts the same of Mamba-2.)
"""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxseq import models, registry, testing
from jaxseq.tasks import parity

STEPS, LENGTH, LONGER = 800, 16, 64
TASK = parity.ParityConfig()
# The tests compile without optimisation; here it is the run that takes time.
fast = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 3}
)


def accuracy_after_training(name, num_heads, learning_rate, **options):
  """Of the bits of longer sequences; one layer, 16 wide."""
  config = models.BackboneConfig(
    16,
    1,
    (name,),
    num_heads=num_heads,
    mlp="none",
    dtype=jnp.float32,
    mixer_options={name: options},
  )
  model = models.LanguageModel(config, vocab_size=TASK.vocab_size)
  schedule = optax.cosine_decay_schedule(learning_rate, STEPS)
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

  def loss(params, batch):
    total, sums = model.apply(params, batch, method="loss")
    return total / sums["weight"], sums["accuracy"] / sums["weight"]

  def step(carry, key):
    params, moments = carry
    batch = parity.batch(jax.random.split(key, 64), TASK, LENGTH)
    grads, _ = jax.grad(loss, has_aux=True)(params, batch)
    updates, moments = optimizer.update(grads, moments, params)
    return (optax.apply_updates(params, updates), moments), None

  params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
  carry = params, optimizer.init(params)
  keys = jax.random.split(jax.random.key(100), STEPS)
  (params, _), _ = fast(functools.partial(jax.lax.scan, step))(carry, keys)
  held_out = parity.batch(jax.random.split(jax.random.key(7), 64), TASK, LONGER)
  return float(fast(loss)(params, held_out)[1])


@pytest.mark.slow
def test_parity_takes_negative_eigenvalues():
  train = functools.partial(accuracy_after_training, "delta_net", 1, 1e-2)
  assert train(negative_eigenvalues=True) > 0.9
  assert train(negative_eigenvalues=False) < 0.7


# Their states could grow, or a logarithm is in the way.
REFUSE = ("comba", "log_linear_mamba2")


def with_the_option():
  has = lambda cls: "negative_eigenvalues" in cls.__dataclass_fields__
  return sorted(n for n, e in registry.MIXERS.items() if has(e.cls) and n not in REFUSE)


@pytest.mark.parametrize("name", REFUSE)
def test_those_that_cannot_have_negative_eigenvalues_say_so(name):
  with pytest.raises(ValueError, match="needs negative_eigenvalues = False"):
    registry.mixer(name)(features=32, negative_eigenvalues=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", with_the_option())
def test_the_option_keeps_the_contract_and_changes_the_outputs(name):
  options = dict(features=32, dtype=jnp.float32, implementation="recurrent")
  mixer = registry.mixer(name)(negative_eigenvalues=True, **options)
  for check in (
    "outputs_do_not_depend_on_later_inputs",
    "packed_documents_are_separate_documents",
  ):
    testing.CHECKS[check](mixer)
  params, x = testing.example(mixer)
  y, _ = jax.jit(mixer.apply)(params, x)
  plain = registry.mixer(name)(negative_eigenvalues=False, **options)
  assert jnp.abs(y - jax.jit(plain.apply)(params, x)[0]).max() > 1e-3
