import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from jaxseq.ops.ssm import hippo, low_rank

N = 8


def system(measure="legs"):
  """HiPPO in both forms: diagonal plus low rank, of half the states; and dense."""
  parts = hippo.normal_plus_low_rank(measure, N)
  half = [z[..., : N // 2] for z in (parts.eigenvalues, parts.P[0].conj(), parts.B)]
  A, B = hippo.MEASURES[measure](N)
  rng = np.random.default_rng(0)
  C = rng.normal(size=(2, N))
  back = (C @ parts.V)[:, : N // 2]  # Reads states in the basis of eigenvectors.
  return [z[None] for z in (*half, back)], (A, B, C)


@pytest.mark.parametrize("measure", ["legs", "lagt"])
def test_the_recurrence_is_the_bilinear_one_of_the_dense_system(measure):
  (values, P, B, C), dense = system(measure)
  dt = np.array([0.07])
  with jax.enable_x64():
    a, b = low_rank.discretize(values, P, B, dt)
    a, b = np.asarray(a)[0], np.asarray(b)[0]
  Ad, Bd, *_ = scipy.signal.cont2discrete(
    (dense[0], dense[1][:, None], np.eye(N), np.zeros((N, 1))), dt[0], "bilinear"
  )
  read = np.concatenate([2 * C[0].real, -2 * C[0].imag], axis=-1)
  for l in range(5):
    want = dense[2] @ np.linalg.matrix_power(Ad, l) @ Bd[:, 0]
    np.testing.assert_allclose(read @ np.linalg.matrix_power(a, l) @ b, want)


@pytest.mark.parametrize("length", [6, 64])
def test_the_cauchy_kernel_is_the_unrolled_recurrence(length):
  (values, P, B, C), _ = system()
  dt = np.array([0.07])
  with jax.enable_x64():
    a, b = low_rank.discretize(values, P, B, dt)
    read = np.asarray(low_rank.whole_output(a, jnp.asarray(C), length))[0]
    taps = np.asarray(low_rank.kernel(values, P, B, C, dt, length))[:, 0]
    a, b = np.asarray(a)[0], np.asarray(b)[0]
  want = [read @ np.linalg.matrix_power(a, l) @ b for l in range(length)]
  np.testing.assert_allclose(taps, want, atol=1e-10)
