import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing
from jaxseq.modules.linear import LightningAttention


def test_it_is_the_parallel_equation_with_the_decays_of_the_authors():
  mixer = LightningAttention(features=32, num_heads=8, depth=0.5, dtype=jnp.float32)
  params, x = testing.example(mixer)
  got, _ = jax.jit(mixer.apply)(params, x)
  params = nn.unbox(params)["params"]
  weights = {name: np.float64(p["kernel"]) for name, p in params.items()}
  x = np.float64(x)
  swish = lambda y: y / (1 + np.exp(-y))
  heads = lambda y: y.reshape(*y.shape[:2], 8, 4)
  q, k = (heads(swish(x @ weights[name])) for name in "qk")
  # The slopes of ALiBi, from 1/2 to 1/256 for 8 heads.
  rates = np.array([1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256])
  t = np.arange(x.shape[1])
  distance = t[:, None] - t
  D = np.exp(-np.multiply.outer(rates * (1 - 0.5 + 1e-5), np.maximum(distance, 0)))
  scores = np.einsum("bthk,bshk->bhts", q, k) * D * (distance >= 0)
  o = np.einsum("bhts,bshv->bthv", scores, heads(x @ weights["v"])).reshape(x.shape)
  o /= np.sqrt(np.mean(o**2, axis=-1, keepdims=True))
  want = (o * (x @ weights["gate"])) @ weights["out"]
  np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


def test_the_last_layer_hardly_forgets():
  mixer = LightningAttention(features=32, depth=1.0, dtype=jnp.float32)
  _, sown = mixer.apply(*testing.example(mixer), mutable=["gates"])
  (log_decay,) = jax.tree.leaves(sown)
  assert (log_decay < 0).all() and (log_decay > -1e-5).all()


def test_a_depth_outside_the_stack_is_named():
  with pytest.raises(ValueError, match="depth in .0, 1.; got 2"):
    LightningAttention(features=32, depth=2)
