"""The Legendre delay, a memory of the last `window` tokens (Voelker et al. 2019).

    window dm/dt = A m + B u,    A_nk = (2n + 1) (-1 if n < k else (-1)^(n - k + 1))
                                 B_n = (2n + 1) (-1)^n
    u(t - s) is about sum_n P_n(2 s / window - 1) m_n(t),      0 <= s <= window

P_n are Legendre's polynomials ("Legendre Memory Units: Continuous-Time Representation
in Recurrent Neural Networks", NeurIPS 2019, eq. 1 to 3). HiPPO-LegT is the same system
with other units for the states.
"""

import functools

import numpy as np
import scipy.linalg

__all__ = ["legendre_delay"]


@functools.cache
def legendre_delay(size: int, window: float) -> tuple[np.ndarray, np.ndarray]:
  """The system in steps of a token, exact for inputs that are constant over a step.

  Args:
    size: States N, the number of polynomials.
    window: Tokens that are remembered.

  Returns:
    A [N, N] and B [N] of m_t = A m_{t-1} + B u_t, float32.
  """
  n = np.arange(size)
  signs = np.where(n[:, None] < n, -1.0, (-1.0) ** (n[:, None] - n + 1))
  rates = (2 * n + 1) / window
  # [A B; 0 0] for a step of 1: its exponential holds both (zero-order hold).
  system = np.zeros((size + 1, size + 1))
  system[:size, :size] = rates[:, None] * signs
  system[:size, size] = rates * (-1.0) ** n
  step = scipy.linalg.expm(system).astype(np.float32)
  return step[:size, :size], step[:size, size]
