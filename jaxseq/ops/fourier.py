"""Fourier transforms that are safe on a CPU, and convolutions by them.

    y = F^-1(F(x) F(k))

On a CPU, XLA spreads a transform of many rows over the threads of the very pool that
runs it, and waits there. Two at a time, of two inputs or on two devices, may each hold
threads that the other waits for, and the program stops for ever. A transform of one row
asks for no other thread; so there the rows go one by one.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

from jaxseq.ops import dispatch

__all__ = ["causal", "circular", "fft", "ifft", "irfft", "rfft"]


def causal(x: Inexact[Array, "B T *N"], kernel: Inexact[Array, "L *N"]) -> Array:
  """sum_{l <= t} kernel_l x_{t-l}.

  Args:
    x: Inputs, at least float32.
    kernel: Taps, the current token's first. Its axes after the first broadcast against
      those of `x` after the second.

  Returns:
    [B, T, *N], complex if either argument is.
  """
  T = x.shape[1]
  kernel = kernel[:T]
  size = 1 << (T + len(kernel) - 2).bit_length()  # A power of 2 holds the whole sum.
  return circular(x, kernel, size)[:, :T]


def circular(
  x: Inexact[Array, "B T *N"], kernel: Inexact[Array, "L *N"], size: int
) -> Array:
  """sum_l kernel_l x_{t-l} with places counted modulo `size`, at least T and L.

  Returns:
    [B, size, *N], complex if either argument is.
  """
  if jnp.iscomplexobj(x) or jnp.iscomplexobj(kernel):
    return ifft(fft(x, size, axis=1) * fft(kernel, size, axis=0), size, axis=1)
  return irfft(rfft(x, size, axis=1) * rfft(kernel, size, axis=0), size, axis=1)


def fft(x: Array, size: int | None = None, axis: int = -1) -> Array:
  """`jnp.fft.fft`."""
  return _by_row(jnp.fft.fft, x, size, axis)


def ifft(x: Array, size: int | None = None, axis: int = -1) -> Array:
  """`jnp.fft.ifft`."""
  return _by_row(jnp.fft.ifft, x, size, axis)


def rfft(x: Array, size: int | None = None, axis: int = -1) -> Array:
  """`jnp.fft.rfft`."""
  return _by_row(jnp.fft.rfft, x, size, axis)


def irfft(x: Array, size: int | None = None, axis: int = -1) -> Array:
  """`jnp.fft.irfft`."""
  return _by_row(jnp.fft.irfft, x, size, axis)


def _by_row(transform, x, size, axis):
  if dispatch.platform() != "cpu":
    return transform(x, size, axis)
  x = jnp.moveaxis(x, axis, -1)
  rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
  rows = jax.lax.map(lambda row: transform(row, size), rows)
  return jnp.moveaxis(rows.reshape(*x.shape[:-1], rows.shape[-1]), -1, axis)
