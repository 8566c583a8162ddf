"""S4's systems: diagonal plus low rank, by the bilinear rule, of conjugate pairs.

    dh/dt = (Lambda - P P^*) h + B x,   y = C h           complex states [2N], half kept

S4 (Gu et al. 2021, arXiv:2111.00396, sec. 3, appendix C) makes the first L taps of the
convolution from the truncated generating function of its kernel,

    K(z) = sum_{l<L} K_l z^l = C~ (I - A z)^-1 B,   C~ = C (I - A^L)
         = 2 / (1 + z) [r(C~ B) - r(C~ P) (1 + r(P^* P))^-1 r(P^* B)]
    r(w) = sum_n w_n / (g - lambda_n),   g = 2 (1 - z) / (dt (1 + z)),

a Cauchy kernel r and Woodbury's identity, at the L-th roots of unity, of which the
inverse FFT makes K_l. Here (1 + z) is taken into the sums, so that z = -1 is no pole.
The correction is P P^* with one P, which keeps the system stable (Goel et al. 2022,
arXiv:2202.09729, sec. 4.2). Sums over a pair's two states are 2 Re.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

__all__ = ["discretize", "kernel", "whole_output"]


@functools.partial(jax.checkpoint, static_argnums=5)
def kernel(
  eigenvalues: Complex[Array, "D N"],
  P: Complex[Array, "D N"],
  B: Complex[Array, "D N"],
  C: Complex[Array, "D M N"],
  dt: Float[Array, "D"],
  length: int,
) -> Float[Array, "L D M"]:
  """K_l for l < L, in O((N + log L) L) a channel.

  Args:
    eigenvalues: Lambda, one of each conjugate pair.
    P: The low-rank part.
    B: The input vector.
    C: C~ for this L.
    dt: Step sizes.
    length: L.
  """
  z = np.exp(-2j * np.pi * np.arange(length // 2 + 1) / length)
  z = jnp.asarray(z[:, None, None], eigenvalues.dtype)
  M = C.shape[1]
  C = C.swapaxes(0, 1)
  weights = jnp.stack([*(C * B), *(C * P), P.conj() * B, P.conj() * P])
  step = dt[:, None]

  def sums(weights, eigenvalues):
    inverse = step / (2 * (1 - z) - eigenvalues * step * (1 + z))  # [L / 2 + 1, D, N]
    return jnp.einsum("ldn,wdn->wld", inverse, weights, precision="highest")

  r = sums(weights, eigenvalues) + sums(weights.conj(), eigenvalues.conj())
  CB, CP, PB, PP = r[:M], r[M : 2 * M], r[2 * M], r[2 * M + 1]
  s = 1 + z[..., 0]
  spectrum = 2 * (CB - s * CP * PB / (1 + s * PP))
  return jnp.moveaxis(jnp.fft.irfft(spectrum, length, axis=1), 0, 2)


def discretize(
  eigenvalues: Complex[Array, "D N"],
  P: Complex[Array, "D N"],
  B: Complex[Array, "D N"],
  dt: Float[Array, "D"],
) -> tuple[Float[Array, "D 2N 2N"], Float[Array, "D 2N"]]:
  """The recurrence h_t = A h_{t-1} + b x_t in real and imaginary parts of h.

  Args:
    eigenvalues: Lambda, one of each conjugate pair.
    P: The low-rank part.
    B: The input vector.
    dt: Step sizes.

  Returns:
    A and b, real: a state is its real parts and then its imaginary parts.
  """
  half = dt[:, None] / 2
  D = 1 / (1 - half * eigenvalues)
  both = lambda x, y: 2 * jnp.sum(x.conj() * y, axis=-1, keepdims=True).real

  def step(h, x):
    """(I - dt/2 A)^-1 [(I + dt/2 A) h + dt B x], by Woodbury's identity."""
    v = D * (h + half * (eigenvalues * h - P * both(P, h)) + 2 * half * B * x)
    return v - half * D * P * both(P, v) / (1 + half * both(P, D * P))

  parts = lambda h: jnp.concatenate([h.real, h.imag], axis=-1)
  unit = np.eye(eigenvalues.shape[1])
  units = jnp.asarray(np.concatenate([unit, 1j * unit])[:, None], eigenvalues.dtype)
  A = jnp.moveaxis(parts(step(units, 0)), 0, 2)  # A column for each unit.
  return A, parts(step(jnp.zeros_like(B), 1))


def whole_output(
  A: Float[Array, "D 2N 2N"], C: Complex[Array, "D M N"], length: int
) -> Float[Array, "D M 2N"]:
  """C = C~ (I - A^L)^-1, as it reads a state of `discretize`."""
  C = jnp.concatenate([2 * C.real, -2 * C.imag], axis=-1)
  rest = jnp.eye(A.shape[1], dtype=A.dtype) - jnp.linalg.matrix_power(A, length)
  return jnp.linalg.solve(rest.swapaxes(1, 2), C.swapaxes(1, 2)).swapaxes(1, 2)
