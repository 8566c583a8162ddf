import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import positions


def test_products_depend_on_differences_of_coordinates():
  keys = jax.random.split(jax.random.key(0), 3)
  q, k = jax.random.normal(keys[0], (2, 1, 1, 2, 5))
  theta = jax.random.normal(keys[1], (2, 3))  # 3 channels of rows, 2 of columns.

  def score(at, to):
    place = lambda p: jnp.asarray(p)[None, None]
    turned = (
      positions.linear_relative(q, place(at), theta),
      positions.linear_relative(k, place(to), theta),
    )
    return jnp.sum(turned[0] * turned[1], axis=-1)

  got = score((4, 9), (1, 7))
  np.testing.assert_allclose(got, score((3, 2), (0, 0)), rtol=1e-5)
  angles = jnp.concatenate([3 * theta, 2 * theta[:, :2]], axis=-1)
  np.testing.assert_allclose(got, jnp.sum(q * k * jnp.cos(angles), -1), rtol=1e-5)


def test_angles_that_do_not_fit_the_channels_are_named():
  x, at = jnp.zeros((1, 4, 2, 5)), jnp.zeros((1, 4, 2), jnp.int32)
  with pytest.raises(ValueError, match="theta .H, 3. for 5 channels of 2 dimensions"):
    positions.linear_relative(x, at, jnp.zeros((2, 2)))
