import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing
from jaxseq.modules.lowrank import NPRF


def example(**attributes):
  mixer = NPRF(features=32, dtype=jnp.float32, **attributes)
  params, x = testing.example(mixer)
  return mixer, jax.tree.map(np.array, nn.unbox(params)["params"]), x


def test_many_features_give_softmax_attention_of_directions_with_relative_bias():
  mixer, p, x = example(num_random_features=8192, max_length=32)
  y, _ = jax.jit(mixer.apply)({"params": p}, x)
  T = x.shape[1]

  def heads(name):
    return (x @ p[name]["kernel"] + p[name]["bias"]).reshape(2, T, 4, 8)

  unit = lambda z: z / np.linalg.norm(z, axis=-1, keepdims=True)
  scores = np.einsum("bthk,bshk->bhts", unit(heads("q")), unit(heads("k")))
  distance = np.arange(T)[:, None] - np.arange(T)
  scores += p["relative_bias"][:, np.maximum(distance, 0)]
  A = np.array(jax.nn.softmax(np.where(distance >= 0, scores, -np.inf)))
  o = np.einsum("bhts,bshv->bthv", A, heads("v")).reshape(x.shape)
  want = o @ p["out"]["kernel"] + p["out"]["bias"]
  assert np.abs(y - want).max() < 0.05 * np.abs(want).max()


def test_a_bias_for_the_token_itself_alone_returns_its_value():
  mixer, p, x = example(max_length=32)
  p["relative_bias"][:, 1:] = -80.0
  y, _ = jax.jit(mixer.apply)({"params": p}, x)
  v = x @ p["v"]["kernel"] + p["v"]["bias"]
  testing.assert_close(y, v @ p["out"]["kernel"] + p["out"]["bias"])


def test_a_call_longer_than_the_cache_is_refused():
  with pytest.raises(ValueError, match="max_length of at least the 9 tokens"):
    NPRF(features=32, max_length=8).init(jax.random.key(0), jnp.zeros((1, 9, 32)))
