"""From a linear system in continuous time to its recurrence in steps.

    dh/dt = A h + B u      becomes      h_t = a h_{t-1} + b u_t

zero-order hold     a = exp(A dt),                 b = A^-1 (a - I) B
Dirac               a = exp(A dt),                 b = B
generalized
bilinear            a = (I - alpha dt A)^-1 (I + (1 - alpha) dt A)
                    b = (I - alpha dt A)^-1 dt B

alpha = 0 is Euler's forward rule, 1 his backward rule, 1/2 the bilinear (trapezoidal,
Tustin's) rule. (S5, Smith et al. 2022, arXiv:2208.04933, eq. 6; S4, Gu et al. 2021,
arXiv:2111.00396, eq. 3; LSSL, Gu et al. 2021, arXiv:2110.13985, eq. 3; Dirac: Schoene
et al. 2024, arXiv:2404.18508, sec. 3.) For a diagonal A, given by its eigenvalues, b is
the factor of B; the functions `dense_...` take matrices.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

__all__ = [
  "RULES",
  "bilinear",
  "dense_bilinear",
  "dense_generalized_bilinear",
  "dense_zero_order_hold",
  "dirac",
  "generalized_bilinear",
  "zero_order_hold",
]


def zero_order_hold(
  eigenvalues: Inexact[Array, "*N"], dt: Float[Array, "*N"]
) -> tuple[Inexact[Array, "*N"], Inexact[Array, "*N"]]:
  """Exact for inputs that are constant over a step.

  Args:
    eigenvalues: lambda, real or complex, not 0.
    dt: Step sizes, in the time unit of lambda.

  Returns:
    a = exp(lambda dt) and b = (a - 1) / lambda.
  """
  return jnp.exp(eigenvalues * dt), jnp.expm1(eigenvalues * dt) / eigenvalues


def dirac(
  eigenvalues: Inexact[Array, "*N"], dt: Float[Array, "*N"]
) -> tuple[Inexact[Array, "*N"], Inexact[Array, "*N"]]:
  """Exact for inputs that are impulses, each at the end of its step.

  Args:
    eigenvalues: lambda, real or complex.
    dt: Step sizes, in the time unit of lambda.

  Returns:
    a = exp(lambda dt), and b = 1.
  """
  a = jnp.exp(eigenvalues * dt)
  return a, jnp.ones_like(a)


def generalized_bilinear(
  eigenvalues: Inexact[Array, "*N"], dt: Float[Array, "*N"], alpha: float
) -> tuple[Inexact[Array, "*N"], Inexact[Array, "*N"]]:
  """A step that weighs its two ends.

  Args:
    eigenvalues: lambda, real or complex.
    dt: Step sizes, in the time unit of lambda.
    alpha: Weight of the step's end, 0 to 1; that of its beginning is 1 - alpha.

  Returns:
    a = (1 + (1 - alpha) lambda dt) / (1 - alpha lambda dt), and
    b = dt / (1 - alpha lambda dt).
  """
  step = eigenvalues * dt
  implicit = 1 - alpha * step
  return (1 + (1 - alpha) * step) / implicit, dt / implicit


def bilinear(
  eigenvalues: Inexact[Array, "*N"], dt: Float[Array, "*N"]
) -> tuple[Inexact[Array, "*N"], Inexact[Array, "*N"]]:
  """The trapezoidal rule (Tustin): a = (1 + lambda dt / 2) / (1 - lambda dt / 2).

  Args:
    eigenvalues: lambda, real or complex.
    dt: Step sizes, in the time unit of lambda.

  Returns:
    a, and b = dt / (1 - lambda dt / 2).
  """
  return generalized_bilinear(eigenvalues, dt, 0.5)


def dense_zero_order_hold(
  A: Inexact[Array, "*D N N"], B: Inexact[Array, "*D N"], dt: Float[Array, "*D"]
) -> tuple[Inexact[Array, "*D N N"], Inexact[Array, "*D N"]]:
  """Exact for inputs that are constant over a step; A may be singular.

  Both results are blocks of one exponential, exp([[A, B], [0, 0]] dt).

  Args:
    A: System matrices.
    B: Their input vectors.
    dt: Step sizes, in the time unit of A.

  Returns:
    a and b; leading axes are broadcast.
  """
  A, B, dt = _broadcast(A, B, dt)
  N = A.shape[-1]
  system = jnp.concatenate([A, B[..., None]], axis=-1) * dt[..., None, None]
  pad = [(0, 0)] * (A.ndim - 2) + [(0, 1), (0, 0)]
  power = jax.scipy.linalg.expm(jnp.pad(system, pad))
  return power[..., :N, :N], power[..., :N, N]


def dense_generalized_bilinear(
  A: Inexact[Array, "*D N N"],
  B: Inexact[Array, "*D N"],
  dt: Float[Array, "*D"],
  alpha: float,
) -> tuple[Inexact[Array, "*D N N"], Inexact[Array, "*D N"]]:
  """A step that weighs its two ends.

  Args:
    A: System matrices.
    B: Their input vectors.
    dt: Step sizes, in the time unit of A.
    alpha: Weight of the step's end, 0 to 1; that of its beginning is 1 - alpha.

  Returns:
    a and b; leading axes are broadcast.
  """
  A, B, dt = _broadcast(A, B, dt)
  dt = dt[..., None, None]
  identity = jnp.eye(A.shape[-1], dtype=A.dtype)
  explicit = jnp.concatenate(
    [identity + (1 - alpha) * dt * A, dt * B[..., None]], axis=-1
  )
  both = jnp.linalg.solve(identity - alpha * dt * A, explicit)
  return both[..., :-1], both[..., -1]


def dense_bilinear(
  A: Inexact[Array, "*D N N"], B: Inexact[Array, "*D N"], dt: Float[Array, "*D"]
) -> tuple[Inexact[Array, "*D N N"], Inexact[Array, "*D N"]]:
  """The trapezoidal rule (Tustin); see `dense_generalized_bilinear`."""
  return dense_generalized_bilinear(A, B, dt, 0.5)


def _broadcast(A, B, dt):
  """With the same leading axes."""
  A, B, dt = jnp.asarray(A), jnp.asarray(B), jnp.asarray(dt)
  lead = jnp.broadcast_shapes(A.shape[:-2], B.shape[:-1], dt.shape)
  size = A.shape[-1]
  return (
    jnp.broadcast_to(A, (*lead, size, size)),
    jnp.broadcast_to(B, (*lead, size)),
    jnp.broadcast_to(dt, lead),
  )


# For diagonal systems, by the names that layers take.
RULES = {"zero_order_hold": zero_order_hold, "bilinear": bilinear, "dirac": dirac}
