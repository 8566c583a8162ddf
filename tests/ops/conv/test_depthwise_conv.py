import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops, testing
from jaxseq.ops.conv import depthwise_conv as module

D = 4


def definition(x, weight, grid):
  """Token by token in numpy float64."""
  x, weight = (np.asarray(a, np.float64) for a in (x, weight))
  rows, columns = grid or (1, x.shape[1])
  r = weight.shape[0] // 2
  weight = weight.reshape(-1, 2 * r + 1, D)
  x = x.reshape(2, rows, columns, D)
  y = np.zeros(x.shape)
  for i, j, k, n in np.ndindex(rows, columns, *weight.shape[:2]):
    s, t = i + k - len(weight) // 2, j + n - r
    if 0 <= s < rows and 0 <= t < columns:
      y[:, i, j] += weight[k, n] * x[:, s, t]
  return y.reshape(2, -1, D)


def draw(T, taps):
  rng = np.random.default_rng(0)
  x, weight = rng.normal(size=(2, T, D)), rng.normal(size=(*taps, D))
  return jnp.asarray(x, jnp.float32), jnp.asarray(weight, jnp.float32)


@pytest.mark.parametrize("size", [3, 7])
@pytest.mark.parametrize("grid", [None, (3, 7)])
def test_every_form_is_the_loop_and_has_its_gradients(grid, size):
  x, weight = draw(21, (size,) if grid is None else (size, size))
  want = definition(x, weight, grid)
  gradients = []
  for form in module.IMPLEMENTATIONS:
    run = lambda *args, form=form: ops.depthwise_conv(
      *args, grid=grid, implementation=form
    )
    got, pull = jax.vjp(jax.jit(run), x, weight)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    gradients.append(pull(got))
  testing.assert_close(*gradients)


def test_documents_of_one_id_with_another_between_stay_apart():
  x, weight = draw(9, (5,))
  ids = jnp.asarray([[7, 7, 2, 7, 7, 7, 0, 0, 3], [0, 1, 1, 1, 1, 1, 1, 1, 1]])
  x = jnp.where(ids[..., None] == 0, jnp.nan, x)
  got = ops.depthwise_conv(x, weight, segment_ids=ids)
  for row, start, end in ((0, 0, 2), (0, 2, 3), (0, 3, 6), (0, 8, 9), (1, 1, 9)):
    alone = ops.depthwise_conv(x[row : row + 1, start:end], weight)
    np.testing.assert_allclose(got[row, start:end], alone[0], rtol=1e-6)


def test_a_sequence_that_is_not_the_grid_is_named():
  x, weight = draw(20, (3, 3))
  with pytest.raises(ValueError, match="grid of 3 x 7 needs T = 21; got 20"):
    ops.depthwise_conv(x, weight, grid=(3, 7))


def test_what_xla_cannot_do_is_named():
  x, weight = draw(21, (3,))
  ids = jnp.ones((2, 21), jnp.int32)
  run = functools.partial(ops.depthwise_conv, implementation="convolution")
  with pytest.raises(NotImplementedError, match="documents apart"):
    run(x, weight, segment_ids=ids)
  with pytest.raises(NotImplementedError, match="one weight for each tap"):
    run(x, jnp.ones((3, 2, 21, D)))
