import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import positions, testing

ORACLES = pathlib.Path(__file__).parents[1] / "oracles"


def by_complex_numbers(x, place, theta):
  """Each pair of channels as a complex number, turned; numpy float64."""
  half = x.shape[-1] // 2
  angle = place[..., None, None] * theta ** (-np.arange(half) / half)
  z = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)
  return np.concatenate([z.real, z.imag], axis=-1)


def test_it_is_the_rotation_of_the_transformers_package():
  case = np.load(ORACLES / "hf_rope.npz")
  place = jnp.broadcast_to(jnp.arange(10), (2, 10))
  for name in "qk":
    got = positions.rotary(case[name].swapaxes(1, 2), place)
    want = case[f"{name}_half"].swapaxes(1, 2)
    np.testing.assert_allclose(got, want, atol=2e-6)


@pytest.mark.parametrize("theta", [10000.0, 500.0])
def test_far_positions_keep_their_angles(theta):
  x = np.random.default_rng(0).normal(size=(1, 5, 3, 14))
  place = np.array([[0, 1, 77, 2047, 8191]])
  got = positions.rotary(jnp.float32(x), jnp.asarray(place), theta=theta)
  error = np.abs(got - by_complex_numbers(x, place, theta)).max(axis=(0, 2, 3))
  # A float32 angle of p radians is off by up to p 2^-24, twice that after its product.
  np.testing.assert_array_less(error, 4 * np.maximum(place[0], 4) * 2.0**-23)


def test_a_product_depends_on_the_distance_only():
  q, k = jax.random.normal(jax.random.key(0), (2, 1, 7, 2, 8))
  place = jnp.arange(7)[None]
  products = lambda shift: jnp.einsum(
    "bthk,bshk->bhts",
    positions.rotary(q, place + shift),
    positions.rotary(k, place + shift),
    precision="highest",
  )
  testing.assert_close(products(190), products(0))
  assert np.abs(products(0) - jnp.einsum("bthk,bshk->bhts", q, k)).max() > 0.1


def test_the_output_has_the_dtype_of_the_input_and_float32_angles():
  x = jax.random.normal(jax.random.key(0), (1, 1, 1, 8))
  place = jnp.array([[1023]])  # Not a bfloat16 number.
  low = positions.rotary(x.astype(jnp.bfloat16), place)
  assert low.dtype == jnp.bfloat16
  testing.assert_close(low, positions.rotary(x, place))


def test_an_odd_head_size_is_refused():
  with pytest.raises(ValueError, match="even head size; got 7"):
    positions.rotary(jnp.zeros((1, 2, 1, 7)), jnp.zeros((1, 2), jnp.int32))
