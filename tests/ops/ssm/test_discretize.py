import jax
import numpy as np
import pytest
import scipy.signal

from jaxseq.ops.ssm import discretize, hippo


@pytest.mark.parametrize(
  "rule, method", [("zero_order_hold", "zoh"), ("bilinear", "bilinear")]
)
def test_it_is_scipys_cont2discrete(rule, method):
  rng = np.random.default_rng(0)
  real, imaginary, dt = rng.uniform(-3, -1e-3, 9), rng.normal(size=9), 0.07
  with jax.enable_x64():
    a, b = getattr(discretize, rule)(real + 1j * imaginary, np.full(9, dt))
  for i in range(9):
    A = np.array([[real[i], -imaginary[i]], [imaginary[i], real[i]]])
    system = (A, np.eye(2), np.eye(2), np.zeros((2, 2)))
    Ad, Bd, *_ = scipy.signal.cont2discrete(system, dt, method)
    np.testing.assert_allclose(Ad[0, 0] + 1j * Ad[1, 0], a[i], rtol=1e-12)
    np.testing.assert_allclose(Bd[0, 0] + 1j * Bd[1, 0], b[i], rtol=1e-10)


@pytest.mark.parametrize("dt", [1e-7, 1e-5, 1e-3])
def test_a_tiny_step_loses_no_digits(dt):
  eigenvalues = np.array([-1e-3, -1e-4 + 300j, -0.5 + 50j, 1e-6j], np.complex64)
  with jax.enable_x64(False):
    _, b = discretize.zero_order_hold(eigenvalues, np.full(4, dt, np.float32))
  with jax.enable_x64():
    wide = eigenvalues.astype(complex)
    _, want = discretize.zero_order_hold(wide, np.full(4, np.float32(dt), float))
  np.testing.assert_allclose(b, want, rtol=1e-6)


def test_legs_projects_onto_legendre_polynomials():
  # The state of dc/dt = (A c + B f) / t is f's projection onto [0, t]. A constant has
  # the first coefficient alone, at rest: A e_0 + B = 0.
  A = hippo.legs(6)
  B = np.sqrt(2 * np.arange(6) + 1)
  np.testing.assert_allclose(A[:, 0] + B, np.zeros(6), atol=1e-12)


def test_the_normal_part_has_real_parts_of_minus_a_half_and_unitary_eigenvectors():
  values, vectors = hippo.normal_legs_eigenvectors(16)
  np.testing.assert_allclose(values.real, -0.5)
  assert (values[:8].imag > 0).all()
  np.testing.assert_allclose(values[:8], values[8:][::-1].conj(), atol=1e-10)
  np.testing.assert_allclose(vectors.conj().T @ vectors, np.eye(16), atol=1e-10)
  p = np.sqrt(np.arange(16) + 0.5)
  normal = vectors @ np.diag(values) @ vectors.conj().T
  np.testing.assert_allclose(normal - np.outer(p, p), hippo.legs(16), atol=1e-9)
