"""From a diagonal system in continuous time to its recurrence in steps.

    dh/dt = lambda h + u      becomes      h_t = a h_{t-1} + b u_t

(S5, Smith et al. 2022, arXiv:2208.04933, eq. 6; S4, Gu et al. 2021, arXiv:2111.00396,
eq. 3.)
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

__all__ = ["bilinear", "zero_order_hold"]


def zero_order_hold(
  eigenvalues: Inexact[Array, "N"], dt: Float[Array, "N"]
) -> tuple[Inexact[Array, "N"], Inexact[Array, "N"]]:
  """Exact for inputs that are constant over a step.

  Args:
    eigenvalues: lambda, real or complex, not 0.
    dt: Step sizes, in the time unit of lambda.

  Returns:
    a = exp(lambda dt) and b = (a - 1) / lambda.
  """
  return jnp.exp(eigenvalues * dt), jnp.expm1(eigenvalues * dt) / eigenvalues


def bilinear(
  eigenvalues: Inexact[Array, "N"], dt: Float[Array, "N"]
) -> tuple[Inexact[Array, "N"], Inexact[Array, "N"]]:
  """The trapezoidal rule (Tustin): a = (1 + lambda dt / 2) / (1 - lambda dt / 2).

  Args:
    eigenvalues: lambda, real or complex.
    dt: Step sizes, in the time unit of lambda.

  Returns:
    a, and b = dt / (1 - lambda dt / 2).
  """
  half = eigenvalues * dt / 2
  return (1 + half) / (1 - half), dt / (1 - half)
