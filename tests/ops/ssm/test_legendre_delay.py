import numpy as np
import scipy.signal

from jaxseq.ops.ssm.legendre_delay import legendre_delay


def test_it_remembers_the_signal_of_its_window():
  window, size = 40.0, 8
  A, B = map(np.float64, legendre_delay(size, window))
  signal = lambda t: np.sin(0.05 * t) + 0.5
  m = np.zeros(size)
  for u in signal(np.arange(200) + 0.5):  # Held over the step around it.
    m = A @ m + B * u
  for s in (0, 4, 10, 20, 30, 40):
    polynomials = np.polynomial.legendre.legvander(2 * s / window - 1, size - 1)
    np.testing.assert_allclose(polynomials @ m, signal(200 - s), atol=0.01)


def test_its_steps_are_those_of_scipy():
  n = np.arange(6)
  sign = np.array([[-1.0 if i < j else (-1.0) ** (i - j + 1) for j in n] for i in n])
  R = (2 * n + 1)[:, None] / 9.0
  system = R * sign, R * (-1.0) ** n[:, None], np.eye(6), np.zeros((6, 1))
  A, B, *_ = scipy.signal.cont2discrete(system, 1.0, "zoh")
  got_A, got_B = legendre_delay(6, 9.0)
  np.testing.assert_allclose(got_A, A, atol=1e-6)
  np.testing.assert_allclose(got_B, B[:, 0], atol=1e-6)
