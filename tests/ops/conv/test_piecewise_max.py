"""Maxima of pieces against numpy's, and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops

B, T, D = 2, 23, 3
CASES = [
  *(("reshaped", False), ("associative", False), ("recurrent", False)),
  *(("associative", True), ("recurrent", True)),
]


def pack():
  """Documents side by side, and with padding before, between and after."""
  ids = np.ones((B, T), np.int32)
  ids[0, :3], ids[0, 8:12], ids[0, 12:] = 0, 2, 5
  ids[1, 11:14], ids[1, 14:], ids[1, -4:] = 0, 3, 0
  return ids


def by_numpy(x, size, ids, cotangent):
  """Maxima, and their gradient: all of a piece's, to the token that is the largest."""
  y, grad = np.zeros(x.shape), np.zeros(x.shape)
  for b in range(B):
    for number in set(ids[b]) - {0}:
      tokens = np.flatnonzero(ids[b] == number)
      for n in range(0, len(tokens), size):
        piece = tokens[n : n + size]
        y[b, piece] = x[b, piece].max(axis=0)
        largest = piece[x[b, piece].argmax(axis=0)]
        grad[b, largest, np.arange(D)] = cotangent[b, piece].sum(axis=0)
  return y, grad


@pytest.mark.parametrize("form, packed", CASES)
def test_every_form_is_the_maximum_of_each_piece(form, packed):
  rng = np.random.default_rng(0)
  x, cotangent = rng.normal(size=(2, B, T, D)).astype(np.float32)
  ids = pack() if packed else None
  whole = pack() if packed else np.ones((B, T), int)
  garbage = np.where(whole[..., None] == 0, np.nan, x)
  for size in (4, 100):

    @jax.jit
    def pull(x, cotangent, size=size):
      run = lambda x: ops.piecewise_max(x, size, segment_ids=ids, implementation=form)
      y, pullback = jax.vjp(run, x)
      return y, *pullback(cotangent)

    y, grad = by_numpy(x, size, whole, cotangent)
    got, got_grad = pull(garbage, cotangent)
    np.testing.assert_array_equal(got, np.float32(y))
    np.testing.assert_allclose(got_grad, grad, rtol=1e-5, atol=1e-6)


def test_calls_that_cannot_run_say_why():
  x = jnp.ones((B, T, D))
  with pytest.raises(ValueError, match="size of at least 1; got 0"):
    ops.piecewise_max(x, 0)
  with pytest.raises(NotImplementedError, match="one document a row"):
    ids = jnp.asarray(pack())
    ops.piecewise_max(x, 4, segment_ids=ids, implementation="reshaped")
