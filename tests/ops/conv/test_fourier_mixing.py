"""The transform of FNet against numpy's, document by document."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops
from jaxseq.ops.conv import fourier_mixing
from jaxseq.ops.linear import structured_matrices

jitted = jax.jit(ops.fourier_mixing, static_argnames="implementation")

B, T, D = 2, 45, 6
BUDGET = 3e-6  # Of float32, as a share of the largest value.


def draw(seed=0):
  return np.random.default_rng(seed).normal(size=(B, T, D))


def pack():
  """Documents side by side, and with padding before, between and after."""
  ids = np.ones((B, T), np.int32)
  ids[0, :3], ids[0, T // 3 : T // 2], ids[0, T // 2 :] = 0, 2, 5
  ids[1, T // 2 : T // 2 + 4], ids[1, T // 2 + 4 :], ids[1, -4:] = 0, 3, 0
  return ids


def by_numpy(x, ids):
  y = np.zeros(x.shape)
  for b in range(B):
    for number in set(ids[b]) - {0}:
      y[b, ids[b] == number] = np.fft.fft2(x[b, ids[b] == number]).real
  return y


def error(got, want):
  return np.abs(np.asarray(got) - want).max() / np.abs(want).max()


@pytest.mark.parametrize("form", fourier_mixing.IMPLEMENTATIONS)
def test_every_form_is_the_transform_of_each_document(form, monkeypatch):
  monkeypatch.setattr(structured_matrices, "BLOCK_SIZE", 16)
  ids = None if form == "fft" else pack()
  whole = np.ones((B, T), int) if ids is None else ids
  x, cotangent = draw(), draw(1)

  @jax.jit
  def pull(x, cotangent):
    run = lambda x: jitted(x, segment_ids=ids, implementation=form)
    y, pullback = jax.vjp(run, x)
    return y, *pullback(cotangent)

  garbage = np.where(whole[..., None] == 0, np.nan, x)
  y, grad = pull(jnp.asarray(garbage, jnp.float32), jnp.asarray(cotangent, jnp.float32))
  assert error(y, by_numpy(x, whole)) < BUDGET
  assert error(grad, by_numpy(cotangent, whole)) < BUDGET  # The map is symmetric.


def test_a_long_row_keeps_its_budget():
  x = np.random.default_rng(0).normal(size=(1, 4096, 2)).astype(np.float32)
  want = np.fft.fft2(x).real
  for form in ("fft", "blockwise"):
    assert error(jitted(x, implementation=form), want) < BUDGET


def test_rows_of_several_documents_are_no_fast_transform():
  with pytest.raises(NotImplementedError, match="one document a row"):
    ids = jnp.asarray(pack())
    jitted(jnp.asarray(draw()), segment_ids=ids, implementation="fft")
