import jax
import jax.numpy as jnp
import numpy as np

from jaxseq import testing
from jaxseq.modules.linear import LinearTransformer, TransNormer


def test_it_is_the_linear_transformer_up_to_the_denominator():
  """One head: the norm forgets the denominator, a positive number a token."""
  options = dict(features=32, num_heads=1, dtype=jnp.float32)
  params, x = testing.example(TransNormer(norm_epsilon=0.0, **options))
  params = params["params"]
  bare = dict(params, out=dict(kernel=jnp.eye(32), bias=jnp.zeros(32)))
  bare["norm"] = dict(scale=jnp.ones(32))
  got, _ = jax.jit(TransNormer(norm_epsilon=0.0, **options).apply)({"params": bare}, x)
  bare.pop("norm")
  mean, _ = jax.jit(LinearTransformer(**options).apply)({"params": bare}, x)
  want = mean / np.sqrt(np.mean(np.square(mean), axis=-1, keepdims=True))
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
