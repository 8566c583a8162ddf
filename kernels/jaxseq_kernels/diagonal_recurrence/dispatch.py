"""What leaves this folder: the differentiable kernel, and why it cannot take a call."""

import jax
import jax.numpy as jnp

from jaxseq_kernels.diagonal_recurrence import vjp

__all__ = ["fused", "refusal"]

ROWS = 8  # Of a tile in memory; time is padded to a multiple.


def fused(a, x, state, *, backend, interpret=False):
  """h_t = a_t h_{t-1} + x_t, differentiable in all three.

  Args:
    a: [B, T, D], or [D], the same at all tokens.
    x: [B, T, D].
    state: [B, D], before the first token.
    backend: "tpu".
    interpret: True, or the parameters of Pallas's interpreter for the backend.

  Returns:
    h [B, T, D] and the last state [B, D], in the dtype of all arrays: float32 or
    complex64.
  """
  del backend  # There is one.
  T = x.shape[1]
  pad = lambda y: jnp.pad(y, ((0, 0), (0, -T % ROWS), (0, 0)))
  args = (a[None, None] if a.ndim == 1 else pad(a), pad(x), state[:, None])
  h, last = map(_whole, vjp.scan(*map(_parts, args), interpret))
  # What follows the last token changes the state, and no other result.
  return h[:, :T], h[:, T - 1] if T % ROWS else last[:, 0]


def _parts(x):
  """Of a complex array its real and imaginary parts, of a real one itself alone."""
  return (x.real, x.imag) if jnp.iscomplexobj(x) else (x,)


def _whole(parts):
  return jax.lax.complex(*parts) if len(parts) == 2 else parts[0]


def refusal(a, x, state, *, backend) -> str | None:
  """Why `fused` cannot take these arrays, or None."""
  kinds = {y.dtype for y in (a, x, state)}
  if len(kinds) > 1 or x.dtype not in (jnp.float32, jnp.complex64):
    return f"it needs float32 or complex64, not {', '.join(sorted(map(str, kinds)))}"
  return None
