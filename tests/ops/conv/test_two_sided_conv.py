import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops
from jaxseq.ops.conv import two_sided_conv as module

BUDGET = 1e-6  # Of float32 against float64, as a share of the largest value.


@pytest.mark.parametrize("T, L, M", [(1, 3, 2), (13, 4, 20)])
def test_every_form_is_the_product_with_the_toeplitz_matrix(T, L, M):
  rng = np.random.default_rng(0)
  x, skip = rng.normal(size=(2, T, 3)), rng.normal(size=3)
  forward, backward = rng.normal(size=(L, 3)), rng.normal(size=(M, 3))
  ids = np.ones((2, T), np.int32)
  ids[0, T // 2 :], ids[1, T - T // 4 :] = 2, 0
  matrix = np.zeros((T, T, 3))
  for t, s in np.ndindex(T, T):
    if 0 <= t - s < L:
      matrix[t, s] = forward[t - s]
    if 0 < s - t <= M:
      matrix[t, s] = backward[s - t - 1]
    if s == t:
      matrix[t, s] += skip
  for row_ids in (None, ids):
    same = np.ones((2, T, T)) if row_ids is None else ids[:, :, None] == ids[:, None]
    want = np.einsum("bts,tsd,bsd->btd", same, matrix, x)
    if row_ids is not None:
      want *= (ids != 0)[..., None]
    for form in module.IMPLEMENTATIONS:
      if form == "fft" and row_ids is not None:
        continue
      got = jax.jit(ops.two_sided_conv, static_argnames="implementation")(
        *(np.float32(a) for a in (x, forward, backward, skip)),
        segment_ids=row_ids,
        implementation=form,
      )
      assert np.abs(got - want).max() < BUDGET * np.abs(want).max(), form


def test_filters_of_different_widths_are_named():
  with pytest.raises(ValueError, match="two_sided_conv needs backward"):
    ops.two_sided_conv(jnp.ones((2, 5, 3)), jnp.ones((4, 3)), jnp.ones((4, 2)))
