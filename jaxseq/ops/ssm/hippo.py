"""HiPPO-LegS, the memory by Legendre polynomials, and its normal part.

    A_nk = -sqrt((2n + 1)(2k + 1))  for n > k,   -(n + 1)  for n = k,   0  for n < k
    A = A_normal - P P^T,   P_n = sqrt(n + 1/2)

(HiPPO, Gu et al. 2020, arXiv:2008.07669, eq. 3; the normal part: S4, Gu et al. 2021,
arXiv:2111.00396, theorem 1 and appendix C.3.) A_normal + I/2 is skew-symmetric, so the
eigenvalues of A_normal are -1/2 + i w and its eigenvectors are unitary.
"""

import numpy as np

__all__ = ["legs", "normal_legs_eigenvectors"]


def legs(size: int) -> np.ndarray:
  """A of HiPPO-LegS, [size, size] float64."""
  n = np.arange(size)
  A = np.tril(-np.sqrt(np.outer(2 * n + 1, 2 * n + 1)), -1)
  return A - np.diag(n + 1.0)


def normal_legs_eigenvectors(size: int) -> tuple[np.ndarray, np.ndarray]:
  """Eigenvalues [size] and unitary eigenvectors [size, size] of the normal part of A.

  In the order of their imaginary parts, those above zero first, so that the first half
  has one of each conjugate pair. `size` is even.
  """
  p = np.sqrt(np.arange(size) + 0.5)
  normal = legs(size) + np.outer(p, p)
  skew = normal + 0.5 * np.eye(size)
  frequencies, vectors = np.linalg.eigh(-1j * skew)
  order = np.argsort(-frequencies)
  return -0.5 + 1j * frequencies[order], vectors[:, order]
