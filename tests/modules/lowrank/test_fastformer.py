import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import registry, testing
from jaxseq.modules.lowrank import Fastformer


def numpy_fastformer(p, x, num_heads):
  """The paper's equations for one document [T, D]."""

  def dense(y, name):
    return y @ p[name]["kernel"] + p[name].get("bias", 0)

  def pool(y, name):
    scores = dense(y, name) / np.sqrt(y.shape[-1] // num_heads)
    weights = np.exp(scores - scores.max(0))
    weights /= weights.sum(0)
    heads = y.reshape(len(y), num_heads, -1)
    return np.einsum("th,thk->hk", weights, heads).reshape(-1)

  q, k = dense(x, "q"), dense(x, "k")
  global_k = pool(k * pool(q, "q_score"), "k_score")
  return dense(global_k * q, "out") + q


def example(name):
  mixer = registry.mixer(name)(features=32, dtype=jnp.float32)
  params, x = testing.example(mixer)
  scores = {"q_score": 40.0, "k_score": 400.0}  # So that the means are not uniform.
  params = jax.tree.map(np.asarray, nn.unbox(params)["params"])
  for score, factor in scores.items():
    params[score] = {"kernel": params[score]["kernel"] * factor}
  return mixer, params, x


def test_it_is_the_additive_attention_of_the_paper():
  mixer, params, x = example("fastformer")
  y, _ = jax.jit(mixer.apply)({"params": params}, x)
  wide = jax.tree.map(np.float64, params)
  want = np.stack([numpy_fastformer(wide, np.float64(row), 4) for row in x])
  testing.assert_close(y, want)


def test_the_causal_form_agrees_with_it_at_the_first_token_alone():
  mixer, params, x = example("fastformer_causal")
  both, _ = jax.jit(Fastformer(features=32, dtype=jnp.float32).apply)(
    {"params": params}, x
  )
  y, _ = jax.jit(mixer.apply)({"params": params}, x)
  first, _ = jax.jit(mixer.apply)({"params": params}, x[:, :1])
  testing.assert_close(y[:, :1], first)
  assert np.abs(y - both).max() > 1e-2


def test_the_causal_form_keeps_the_global_query_that_each_token_was_made_with():
  mixer, params, x = example("fastformer_causal")
  y, _ = jax.jit(mixer.apply)({"params": params}, x)
  p = jax.tree.map(np.float64, params)
  x = np.float64(x[0])
  dense = lambda y, name: y @ p[name]["kernel"] + p[name].get("bias", 0)
  q, k = dense(x, "q"), dense(x, "k")

  def running(y, name):
    weights = np.exp(dense(y, name) / np.sqrt(8))
    heads = y.reshape(len(y), 4, 8)
    sums = np.cumsum(weights[..., None] * heads, axis=0)
    return (sums / np.cumsum(weights, axis=0)[..., None]).reshape(y.shape)

  global_k = running(k * running(q, "q_score"), "k_score")
  testing.assert_close(y[0], dense(global_k * q, "out") + q, jnp.float32)


def test_scores_of_any_size_do_not_overflow():
  mixer, params, x = example("fastformer_causal")
  params["q_score"] = {"kernel": params["q_score"]["kernel"] * 1e4}
  y, _ = jax.jit(mixer.apply)({"params": params}, x)
  assert np.isfinite(y).all()


def test_heads_that_do_not_divide_are_named():
  with pytest.raises(ValueError, match="Fastformer needs num_heads"):
    Fastformer(features=32, num_heads=5)
