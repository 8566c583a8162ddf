import jax
import numpy as np
import pytest
import scipy.signal

from jaxseq.ops.ssm import discretize


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


@pytest.mark.parametrize("alpha", [0, 0.3, 1])
def test_the_generalized_bilinear_rule_is_scipys(alpha):
  with jax.enable_x64():
    a, b = discretize.generalized_bilinear(np.array([-2.0, 0.0]), 0.07, alpha)
  for i, eigenvalue in enumerate((-2.0, 0.0)):
    system = np.array([[[eigenvalue]], [[1]], [[1]], [[0]]])
    Ad, Bd, *_ = scipy.signal.cont2discrete(system, 0.07, "gbt", alpha)
    np.testing.assert_allclose((a[i], b[i]), (Ad[0, 0], Bd[0, 0]), rtol=1e-12)


def test_dirac_has_the_impulse_response_of_scipys():
  eigenvalues, dt = np.array([-2.0, -0.1]), 0.07
  with jax.enable_x64():
    a, b = discretize.dirac(eigenvalues, np.full(2, dt))
  for i, eigenvalue in enumerate(eigenvalues):
    system = np.array([[[eigenvalue]], [[1]], [[1]], [[0]]])
    Ad, Bd, C, D, _ = scipy.signal.cont2discrete(system, dt, "impulse")
    # Scipy's state lags a step behind its input, and its impulse has the area dt.
    response = [D[0, 0], *((C @ Ad**k @ Bd)[0, 0] for k in range(4))]
    np.testing.assert_allclose(
      np.array(response) / dt, np.asarray(b)[i] * np.asarray(a)[i] ** np.arange(5)
    )


@pytest.mark.parametrize(
  "rule, method, options",
  [
    ("dense_zero_order_hold", "zoh", ()),
    ("dense_bilinear", "bilinear", ()),
    ("dense_generalized_bilinear", "gbt", (0.3,)),
  ],
)
def test_the_dense_rules_are_scipys(rule, method, options):
  rng = np.random.default_rng(0)
  A, B, dt = rng.normal(size=(2, 5, 5)), rng.normal(size=5), np.array([0.07, 0.9])
  A[1] = np.diag(np.ones(4), -1)  # Singular.
  with jax.enable_x64():
    a, b = getattr(discretize, rule)(A, B, dt, *options)
  for i in range(2):
    system = (A[i], B[:, None], np.eye(5), np.zeros((5, 1)))
    Ad, Bd, *_ = scipy.signal.cont2discrete(system, dt[i], method, *options)
    np.testing.assert_allclose(a[i], Ad, atol=1e-12)
    np.testing.assert_allclose(b[i], Bd[:, 0], atol=1e-12)
