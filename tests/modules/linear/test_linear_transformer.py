"""The linear transformer and the mixers that differ from it in their weights alone."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import registry, testing

PLACE = jnp.arange(testing.LENGTH)


def scores(q, k):
  return jnp.einsum("bthk,bshk->bhts", q, k, precision="highest")


def elu_weights(q, k, params):
  return scores(nn.elu(q) + 1, nn.elu(k) + 1)


def cosine_weights(q, k, params):
  cosine = jnp.cos(jnp.pi * (PLACE[:, None] - PLACE) / (2 * 2048))
  return scores(nn.relu(q), nn.relu(k)) * cosine


def taylor_weights(q, k, params):
  s = scores(q, k) / q.shape[-1] ** 0.5
  return 1 + s + s**2 / 2


def quadratic_weights(q, k, params):
  def affine(x):
    x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * params["norm"]["scale"] + params["norm"]["bias"]

  return scores(affine(q), affine(k)) ** 2 / q.shape[-1]


def hedgehog_weights(q, k, params):
  def phi(x, name):
    y = jnp.einsum("bthk,hkf->bthf", x, params[name]["kernel"], precision="highest")
    return jnp.concatenate([nn.softmax(y), nn.softmax(-y)], axis=-1)

  return scores(phi(q, "map_q"), phi(k, "map_k"))


WEIGHTS = {
  "linear_transformer": elu_weights,
  "bidirectional_linear_transformer": elu_weights,
  "cosformer": cosine_weights,
  "based": taylor_weights,
  "rebased": quadratic_weights,
  "hedgehog": hedgehog_weights,
}


@functools.cache
def example(name):
  mixer = registry.mixer(name)(features=32, dtype=jnp.float32)
  params, x = testing.example(mixer)
  return mixer, nn.unbox(params), x


def project(params, x, name, size=None):
  y = jnp.dot(x, params[name]["kernel"], precision="highest")
  return y + params[name].get("bias", 0)


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_output_is_a_mean_of_values_by_the_weights_of_the_paper(name):
  mixer, variables, x = example(name)
  params = variables["params"]
  q, k, v = (project(params, x, n).reshape(*x.shape[:2], 4, -1) for n in "qkv")
  weights = WEIGHTS[name](q, k, params)
  if registry.entry(name).causal:
    weights = jnp.where(PLACE[:, None] >= PLACE, weights, 0)
  total = jnp.maximum(weights.sum(-1, keepdims=True), mixer.least_denominator)
  o = jnp.einsum("bhts,bshv->bthv", weights / total, v, precision="highest")
  want = project(params, o.reshape(x.shape), "out")
  y, _ = jax.jit(mixer.apply)(variables, x)
  testing.assert_close(y, want)


def test_performer_estimates_softmax_attention_the_better_the_more_features():
  errors = []
  for number in (8, 64, 2048):
    mixer = registry.mixer("performer")(
      features=32, num_random_features=number, dtype=jnp.float32
    )
    # The variance grows as exp(|q + k|^2), so the inputs are small.
    x = 0.5 * jax.random.normal(jax.random.key(1), (2, testing.LENGTH, 32))
    params = nn.unbox(jax.jit(mixer.init)(jax.random.key(0), x))
    q, k, v = (
      project(params["params"], x, n).reshape(*x.shape[:2], 4, 8) for n in "qkv"
    )
    exact = jnp.where(PLACE[:, None] >= PLACE, scores(q, k) / 8**0.5, -jnp.inf)
    o = jnp.einsum("bhts,bshv->bthv", nn.softmax(exact), v)
    want = project(params["params"], o.reshape(x.shape), "out")
    y, _ = jax.jit(mixer.apply)(params, x)
    errors.append(float(jnp.linalg.norm(y - want) / jnp.linalg.norm(want)))
  assert errors[0] > 1.5 * errors[1] and errors[1] > 2 * errors[2]
  assert errors[2] < 0.05


def test_heads_that_do_not_divide_are_named():
  with pytest.raises(ValueError, match="Performer needs num_heads that divide .* 32"):
    registry.mixer("performer")(features=32, num_heads=5)


def test_the_features_of_performer_are_k_log_k_unless_told():
  assert registry.mixer("performer")(features=256, num_heads=4).num_features == 266
  assert registry.mixer("performer")(features=4, num_heads=4).num_features == 1
  size = registry.mixer("performer")(features=32, num_random_features=7).num_features
  assert size == 7
  np.testing.assert_equal(registry.mixer("based")(features=32).num_features, 153)
