import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops, registry, testing


@pytest.mark.parametrize(
  "name, plain",
  [("delta_product", "delta_net"), ("gated_delta_product", "gated_delta_net")],
)
def test_with_one_step_it_is_the_plain_layer(name, plain):
  options = dict(features=32, dtype=jnp.float32, negative_eigenvalues=True)
  one = registry.mixer(name)(num_householders=1, **options)
  params, x = testing.example(one)
  y, state = jax.jit(one.apply)(params, x)
  want, want_state = jax.jit(registry.mixer(plain)(**options).apply)(params, x)
  np.testing.assert_allclose(y, want, atol=1e-5)
  testing.assert_close(state, want_state)


def test_two_reflections_in_a_token_are_a_rotation():
  """A state turns by a quarter a token, which no single reflection can do."""
  k = np.float32([[1, 0], [0.5**0.5, 0.5**0.5]])
  S = np.eye(2, dtype=np.float32)[None, None]
  keys = np.broadcast_to(k[None, None, :, None], (1, 4, 2, 1, 2))
  two = np.full((1, 4, 2, 1), 2, np.float32)
  q = np.zeros((1, 4, 1, 2), np.float32)
  run = jax.jit(ops.delta_product)
  for t, turn in enumerate([90, 180, 270, 360], start=1):
    _, last = run(
      q[:, :t], keys[:, :t], 0 * keys[:, :t], None, two[:, :t], initial_state=S
    )
    (a, _), (b, _) = np.asarray(last)[0, 0]
    angle = np.rad2deg(np.arctan2(b, a)) % 360
    np.testing.assert_allclose(angle, turn % 360, atol=1e-3)
