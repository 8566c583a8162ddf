"""HiPPO: the state as coefficients of the input's history in a basis.

    dc/dt = A c + B f,     c_n(t) = integral of f(s) g_n(t, s) ds

LegS      (1/t) (A c + B f);  g_n = sqrt(2n + 1) P_n(2s/t - 1) / t     on [0, t]
LegT      g_n = sqrt(2n + 1) P_n(2s - 2t + 1)                          on [t - 1, t]
LagT      g_n = exp(-(t - s) / 2) L_n(t - s)                           on (-inf, t]
FourierT  g_n = 1, 0, sqrt(2) cos 2 pi k (t - s), sqrt(2) sin ..., ... on [t - 1, t]

P_n and L_n are the polynomials of Legendre and Laguerre. LegS and LagT are exact; LegT
and FourierT take f(t - 1) from the coefficients. (HiPPO, Gu et al. 2020,
arXiv:2008.07669, appendix D; How to Train Your HiPPO, Gu et al. 2022,
arXiv:2206.12037.)

All are normal matrices but for a term of low rank, A = A_normal - P^T P with R rows of
P (S4, Gu et al. 2021, arXiv:2111.00396, theorem 1 and appendix C.3). A_normal is skew-
symmetric but for a multiple of the identity, so its eigenvectors are unitary.
"""

from typing import NamedTuple

import numpy as np

__all__ = [
  "MEASURES",
  "NormalPlusLowRank",
  "fouriert",
  "lagt",
  "legs",
  "legt",
  "low_rank_part",
  "normal_legs_eigenvectors",
  "normal_plus_low_rank",
]


def legs(size: int) -> tuple[np.ndarray, np.ndarray]:
  """A and B of LegS, [size, size] and [size] float64.

  A_nk = -sqrt((2n + 1)(2k + 1)) for n > k, -(n + 1) for n = k; B_n = sqrt(2n + 1).
  """
  n = np.arange(size)
  B = np.sqrt(2 * n + 1.0)
  return np.tril(-np.outer(B, B), -1) - np.diag(n + 1.0), B


def legt(size: int) -> tuple[np.ndarray, np.ndarray]:
  """A and B of LegT for a window of length 1, [size, size] and [size] float64.

  A_nk = -sqrt((2n + 1)(2k + 1)) times (-1)^(n - k) for n < k; B_n = sqrt(2n + 1).
  """
  n = np.arange(size)
  B = np.sqrt(2 * n + 1.0)
  signs = np.where(n[:, None] < n, (-1.0) ** (n[:, None] - n), 1)
  return -np.outer(B, B) * signs, B


def lagt(size: int) -> tuple[np.ndarray, np.ndarray]:
  """A and B of LagT, [size, size] and [size] float64.

  A_nk = -1 for n > k, -1/2 for n = k; B_n = 1.
  """
  return np.eye(size) / 2 - np.tril(np.ones((size, size))), np.ones(size)


def fouriert(size: int) -> tuple[np.ndarray, np.ndarray]:
  """A and B of FourierT for a window of length 1, [size, size] and [size] float64.

  Cosines and sines of one frequency follow each other. `size` is even, and the sine of
  frequency 0 has a place, which stays empty.
  """
  ends = np.where(np.arange(size) % 2, 0, 2**0.5)  # g_n at both ends of the window.
  ends[0] = 1
  turns = np.zeros(size - 1)
  turns[::2] = 2 * np.pi * np.arange(size // 2)
  skew = np.diag(turns, -1) - np.diag(turns, 1)
  return skew - 2 * np.outer(ends, ends), 2 * ends


MEASURES = {"legs": legs, "legt": legt, "lagt": lagt, "fouriert": fouriert}


def low_rank_part(measure: str, size: int) -> np.ndarray:
  """P [R, size] float64, with which A + P^T P is normal; R is 2 for LegT, else 1.

  Args:
    measure: A key of `MEASURES`.
    size: Of A.

  Raises:
    ValueError: If there is no such measure.
  """
  if measure not in MEASURES:
    raise ValueError(f"hippo needs measure in {tuple(MEASURES)}; got {measure!r}")
  _, B = MEASURES[measure](size)
  if measure == "legt":  # Even and odd polynomials apart.
    even = np.arange(size) % 2 == 0
    return np.stack([np.where(even, B, 0), np.where(even, 0, B)])
  return B[None] / 2**0.5


class NormalPlusLowRank(NamedTuple):
  """A = V (diag(eigenvalues) - P^* P) V^*, complex128.

  Eigenvalues are in the order of their imaginary parts, those above zero first, and
  the i-th from the front and from the back are a conjugate pair with conjugate
  vectors, so that the first half determines the second.

  Attributes:
    eigenvalues: Of the normal part.
    P: The low-rank part in the basis of eigenvectors: each row is (V^* p)^*.
    B: The input vector in this basis, V^* B.
    V: The eigenvectors, unitary, in columns.
  """

  eigenvalues: np.ndarray
  P: np.ndarray
  B: np.ndarray
  V: np.ndarray


def normal_plus_low_rank(measure: str, size: int) -> NormalPlusLowRank:
  """S4's form of a HiPPO matrix of even size.

  Args:
    measure: A key of `MEASURES`.
    size: N, even.

  Raises:
    ValueError: If there is no such measure.
  """
  p = low_rank_part(measure, size)
  A, B = MEASURES[measure](size)
  normal = A + p.T @ p
  shift = np.diag(normal).mean()
  frequencies, V = np.linalg.eigh(-1j * (normal - shift * np.eye(size)))
  order = np.argsort(-frequencies)
  frequencies, V = frequencies[order], V[:, order]
  half = size // 2
  if np.abs(frequencies[half]) < 1e-9:  # A pair of zeros, of real vectors u and v.
    pair = V[:, half - 1 : half + 1]
    u, v = np.linalg.svd(np.hstack([pair.real, pair.imag]))[0][:, :2].T
    V[:, half - 1] = (u + 1j * v) / 2**0.5
  V[:, half:] = V[:, :half][:, ::-1].conj()
  frequencies[half:] = -frequencies[:half][::-1]
  back = V.conj().T
  return NormalPlusLowRank(shift + 1j * frequencies, (back @ p.T).T.conj(), back @ B, V)


def normal_legs_eigenvectors(size: int) -> tuple[np.ndarray, np.ndarray]:
  """Eigenvalues [size] and unitary eigenvectors [size, size] of LegS's normal part."""
  parts = normal_plus_low_rank("legs", size)
  return parts.eigenvalues, parts.V
