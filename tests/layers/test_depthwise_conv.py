import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import layers

D = 4


def by_xla(x, weight):
  """The same convolution by XLA's own, [B, rows, columns, D]."""
  return jax.lax.conv_general_dilated(
    x,
    weight[:, :, None],
    (1, 1),
    "SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=D,
    precision="highest",
  )


def draw(T, taps):
  rng = np.random.default_rng(0)
  x, weight = rng.normal(size=(2, T, D)), rng.normal(size=(*taps, D))
  return jnp.asarray(x, jnp.float32), jnp.asarray(weight, jnp.float32)


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("grid", [None, (3, 7)])
def test_it_is_the_convolution_of_xla_and_has_its_gradients(grid, size):
  x, weight = draw(21, (size,) if grid is None else (size, size))
  shape = (1, 21) if grid is None else grid

  def reference(x, weight):
    weight = weight.reshape(-1, size, D)
    if grid is None:
      weight = jnp.pad(weight, ((size // 2, size // 2), (0, 0), (0, 0)))
    return by_xla(x.reshape(2, *shape, D), weight).reshape(x.shape)

  run = lambda x, weight: layers.depthwise_conv(x, weight, grid=grid)
  got, pull = jax.vjp(run, x, weight)
  want, pull_reference = jax.vjp(reference, x, weight)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
  for a, b in zip(pull(want), pull_reference(want)):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_documents_of_one_id_with_another_between_stay_apart():
  x, weight = draw(9, (5,))
  ids = jnp.asarray([[7, 7, 2, 7, 7, 7, 0, 0, 3], [0, 1, 1, 1, 1, 1, 1, 1, 1]])
  x = jnp.where(ids[..., None] == 0, jnp.nan, x)
  got = layers.depthwise_conv(x, weight, segment_ids=ids)
  for row, start, end in ((0, 0, 2), (0, 2, 3), (0, 3, 6), (0, 8, 9), (1, 1, 9)):
    alone = layers.depthwise_conv(x[row : row + 1, start:end], weight)
    np.testing.assert_allclose(got[row, start:end], alone[0], rtol=1e-6)


def test_a_sequence_that_is_not_the_grid_is_named():
  x, weight = draw(20, (3, 3))
  with pytest.raises(ValueError, match="grid of 3 x 7 needs T = 21; got 20"):
    layers.depthwise_conv(x, weight, grid=(3, 7))
