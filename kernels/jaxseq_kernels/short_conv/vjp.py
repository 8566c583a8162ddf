"""The kernels made differentiable: their gradient is that of the reference.

It keeps the inputs and no output; the products of the backward pass are fused by XLA.
"""

import functools

import jax

from jaxseq_kernels.short_conv import pallas_gpu, pallas_tpu, reference

__all__ = ["convolve"]

FORWARD = {"tpu": pallas_tpu.forward, "gpu": pallas_gpu.forward}


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def convolve(x, weight, bias, reach, activation, backend, interpret):
  """See `reference.forward`."""
  forward = FORWARD[backend]
  return forward(x, weight, bias, reach, activation=activation, interpret=interpret)


def _forward(x, weight, bias, reach, activation, backend, interpret):
  y = convolve(x, weight, bias, reach, activation, backend, interpret)
  return y, (x, weight, bias, reach)


def _backward(activation, backend, interpret, kept, dy):
  x, weight, bias, reach = kept
  plain = lambda x, weight, bias: reference.forward(
    x, weight, bias, reach, activation=activation
  )
  return *jax.vjp(plain, x, weight, bias)[1](dy), None


convolve.defvjp(_forward, _backward)
