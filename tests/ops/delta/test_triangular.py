import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.ops.delta import triangular


@pytest.mark.parametrize("C", [1, 2, 16, 64])
def test_the_inverse_of_a_unit_lower_triangle_is_exact(C):
  rng = np.random.default_rng(0)
  L = np.tril(rng.uniform(-1, 1, (3, 2, C, C)), -1)
  L[1] = np.tril(np.full((C, C), 2.0), -1)  # One key, beta = 2, no decay.
  want = np.linalg.inv(np.eye(C) + L)
  got = triangular.unit_lower_inverse(jnp.asarray(L, jnp.float32))
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_the_gradient_of_the_inverse_is_that_of_the_dense_inverse():
  L = 0.3 * jnp.tril(jax.random.normal(jax.random.key(0), (2, 16, 16)), -1)
  weights = jax.random.normal(jax.random.key(1), L.shape)
  dense = lambda L: jnp.sum(weights * jnp.linalg.inv(jnp.eye(16) + L))
  got = jax.grad(lambda L: jnp.sum(weights * triangular.unit_lower_inverse(L)))(L)
  np.testing.assert_allclose(got, jax.grad(dense)(L), rtol=1e-4, atol=1e-4)
