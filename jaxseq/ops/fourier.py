"""Convolutions by FFT, whose transforms never run side by side.

    y = F^-1(F(x) F(k))

On a CPU, XLA may run two transforms at a time on the threads of one pool, and each then
waits there for threads that the other holds: the program stops for ever. So what could
be transformed side by side, inputs and kernel, or all three in the backward pass, is
one batch here. That is why the derivative is written out.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

from jaxseq.ops import dispatch

__all__ = ["causal", "circular"]


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
  kind = jnp.result_type(x, kernel)
  return _circular(x.astype(kind), kernel[None].astype(kind), size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _circular(x, kernel, size):
  X, K = _spectra(size, x, kernel)
  return _back(size, x, X * K)[0]


def _forward(x, kernel, size):
  return _circular(x, kernel, size), (x, kernel)


def _backward(size, arguments, grad):
  x, kernel = arguments
  X, K, G = _spectra(size, x, kernel, grad)
  of_x = _sum_to(G * _mirrored(K, x), x.shape)
  of_kernel = _sum_to(G * _mirrored(X, x), kernel.shape)
  dx, dk = _back(size, x, of_x, of_kernel)
  return dx[:, : x.shape[1]], dk[:, : kernel.shape[1]]


_circular.defvjp(_forward, _backward)


def _spectra(size, *arrays):
  run = jnp.fft.fft if jnp.iscomplexobj(arrays[0]) else jnp.fft.rfft
  pad = lambda x: jnp.pad(x, [(0, 0), (0, size - x.shape[1])] + [(0, 0)] * (x.ndim - 2))
  return _in_one_batch(lambda x: run(x, axis=-1), [pad(x) for x in arrays])


def _back(size, like, *spectra):
  if jnp.iscomplexobj(like):
    return _in_one_batch(lambda x: jnp.fft.ifft(x, axis=-1), spectra)
  return _in_one_batch(lambda x: jnp.fft.irfft(x, size, axis=-1), spectra)


def _in_one_batch(transform, arrays):
  """Transforms axis 1 of each; where two at a time are safe, one by one."""
  last = [jnp.moveaxis(x, 1, -1) for x in arrays]
  if dispatch.platform() != "cpu":  # The axes stay as they are sharded.
    return [jnp.moveaxis(transform(x), -1, 1) for x in last]
  rows = [x.reshape(-1, x.shape[-1]) for x in last]
  out = transform(jnp.concatenate(rows))
  cuts = [sum(map(len, rows[:i])) for i in range(1, len(rows))]
  parts = jnp.split(out, cuts)
  shaped = [y.reshape(*x.shape[:-1], -1) for x, y in zip(last, parts)]
  return [jnp.moveaxis(y, -1, 1) for y in shaped]


def _mirrored(spectrum, like):
  """The spectrum of the same numbers, from the last to the first."""
  if not jnp.iscomplexobj(like):
    return spectrum.conj()
  return jnp.roll(spectrum[:, ::-1], 1, axis=1)


def _sum_to(x, shape):
  """Sums over the axes along which an argument of this shape was broadcast."""
  axes = [i for i, n in enumerate(shape) if i != 1 and n == 1 and x.shape[i] > 1]
  return jnp.sum(x, axis=axes, keepdims=True)
