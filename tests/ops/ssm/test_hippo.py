import numpy as np
import pytest
import scipy.integrate
import scipy.special

from jaxseq.ops.ssm import hippo


def history(t):
  """A smooth input, 0 before time 0."""
  return np.where(t >= 0, np.sin(3 * t) + 0.5 * np.cos(5 * t + 1), 0)


def run(A, B, f, start, stop, c, scaled=False):
  rate = lambda t, c: (A @ c + B * f(t)) / (t if scaled else 1)
  out = scipy.integrate.solve_ivp(
    rate, (start, stop), c, "LSODA", rtol=1e-9, atol=1e-10
  )
  return out.y[:, -1]


def legendre(x, size):
  """Orthonormal on [0, 1], by row."""
  n = np.arange(size)[:, None]
  return np.sqrt(2 * n + 1) * scipy.special.eval_legendre(n, 2 * x - 1)


def project(f, basis, start, stop):
  """Integrals of f times each basis function."""
  x, w = np.polynomial.legendre.leggauss(200)
  s = start + (stop - start) * (x + 1) / 2
  return basis(s) @ (w * f(s)) * (stop - start) / 2


def test_legs_projects_the_whole_past_onto_legendre_polynomials():
  size = 12
  A, B = hippo.legs(size)
  at = lambda t: project(history, lambda s: legendre(s / t, size), 0, t) / t
  c = run(A, B, history, 0.1, 2.0, at(0.1), scaled=True)
  np.testing.assert_allclose(c, at(2.0), atol=1e-7)
  s = np.linspace(0, 2, 50)
  np.testing.assert_allclose(c @ legendre(s / 2, size), history(s), atol=1e-3)


def test_lagt_projects_the_past_onto_laguerre_polynomials():
  size = 12
  A, B = hippo.lagt(size)
  c = run(A, B, history, 0.0, 4.0, np.zeros(size))
  n = np.arange(size)[:, None]
  basis = lambda s: np.exp(-(4 - s) / 2) * scipy.special.eval_laguerre(n, 4 - s)
  np.testing.assert_allclose(c, project(history, basis, 0, 4), atol=1e-7)


def test_legt_keeps_a_window_of_length_one():
  size = 12
  A, B = hippo.legt(size)
  c = run(A, B, history, 0.0, 3.0, np.zeros(size))
  s = np.linspace(0, 1, 50)
  np.testing.assert_allclose(c @ legendre(s, size), history(2 + s), atol=1e-2)


def test_fouriert_keeps_a_window_of_length_one():
  size = 12
  A, B = hippo.fouriert(size)
  f = lambda t: 0.3 + np.cos(2 * np.pi * t + 0.4) - 0.5 * np.sin(6 * np.pi * t)
  c = run(A, B, f, 0.0, 8.0, np.zeros(size))
  ago = np.linspace(0, 1, 50)
  k = np.arange(size // 2)[:, None]
  waves = np.stack([np.cos(2 * np.pi * k * ago), np.sin(2 * np.pi * k * ago)], axis=1)
  basis = waves.reshape(size, -1) * np.where(np.arange(size) < 1, 1, 2**0.5)[:, None]
  np.testing.assert_allclose(c @ basis, f(8 - ago), atol=1e-2)


@pytest.mark.parametrize("measure", sorted(hippo.MEASURES))
def test_each_is_a_normal_matrix_less_one_of_low_rank(measure):
  A, B = hippo.MEASURES[measure](16)
  values, P, back, V = hippo.normal_plus_low_rank(measure, 16)
  np.testing.assert_allclose(V.conj().T @ V, np.eye(16), atol=1e-10)
  np.testing.assert_allclose(values[:8], values[8:][::-1].conj())
  np.testing.assert_allclose(V[:, :8], V[:, 8:][:, ::-1].conj())
  assert (values[:8].imag >= 0).all()
  whole = V @ (np.diag(values) - P.conj().T @ P) @ V.conj().T
  np.testing.assert_allclose(whole, A, atol=1e-9)
  np.testing.assert_allclose(V @ back, B, atol=1e-9)
  assert len(P) == (2 if measure == "legt" else 1)


def test_the_normal_parts_decay_at_one_rate_and_all_are_stable():
  for measure, rate in dict(legs=-0.5, legt=0, lagt=0, fouriert=0).items():
    values, *_ = hippo.normal_plus_low_rank(measure, 16)
    np.testing.assert_allclose(values.real, rate, atol=1e-12)
    assert (np.linalg.eigvals(hippo.MEASURES[measure](16)[0]).real < 1e-9).all()


def test_an_unknown_measure_is_named():
  with pytest.raises(ValueError, match="measure in .*'legs'.*; got 'leg'"):
    hippo.low_rank_part("leg", 8)
