"""The triangular systems of the UT transform (DeltaNet, Yang et al. 2024, 2406.06484).

    (I + L) U = V          L strictly lower triangular, [C, C]

What a token of a chunk stores depends on what all those before it have stored.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["solve", "unit_lower_inverse"]


def solve(
  L: Float[Array, "... C C"], right: Float[Array, "... C V"], *, like: Array
) -> Float[Array, "... C V"]:
  """(I + L)^-1 right, C a power of two.

  Not in bfloat16 even if `like`, an input of the op, is: the errors of one token reach
  all later ones. Then "high" will do, three bfloat16 products or one of TensorFloat32.
  """
  precision = "high" if like.dtype == jnp.bfloat16 else "highest"
  return jnp.matmul(unit_lower_inverse(L), right, precision=precision)


@jax.custom_jvp
def unit_lower_inverse(L: Float[Array, "... C C"]) -> Float[Array, "... C C"]:
  """(I + L)^-1 for strictly lower triangular L, C a power of two.

  The inverses of both halves of the diagonal, found together, give the whole:

      [[A, 0], [M, B]]^-1 = [[A^-1, 0], [-B^-1 M A^-1, B^-1]]
  """
  return _inverse(L)


@unit_lower_inverse.defjvp
def _inverse_jvp(primals, tangents):
  """dX = -X dL X: the backward pass needs X alone, no step of the recursion."""
  X = unit_lower_inverse(*primals)
  return X, -_matmul(X, _matmul(*tangents, X))


def _inverse(L):
  C = L.shape[-1]
  if C == 1:
    return jnp.ones_like(L)
  half = C // 2
  A, B = _inverse(jnp.stack([L[..., :half, :half], L[..., half:, half:]]))
  M = -_matmul(_matmul(B, L[..., half:, :half]), A)
  return jnp.block([[A, jnp.zeros_like(A)], [M, B]])


def _matmul(A, B):
  """A B to float32. No matrix unit is filled by small ones: they are summed as such."""
  if A.shape[-1] < 8:
    return jnp.sum(A[..., None] * B[..., None, :, :], axis=-2)
  return jnp.matmul(A, B, precision="highest")
