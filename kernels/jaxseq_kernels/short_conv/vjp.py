"""The kernels made differentiable.

The backward pass keeps the inputs and no output. On a GPU it is the reference's, whose
products are fused by XLA.
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
  if backend == "tpu":
    options = dict(activation=activation, interpret=interpret)
    return *pallas_tpu.backward(*kept, dy, **options), None
  x, weight, bias, reach = kept
  plain = lambda x, weight, bias: reference.forward(
    x, weight, bias, reach, activation=activation
  )
  return *jax.vjp(plain, x, weight, bias)[1](dy), None


convolve.defvjp(_forward, _backward)
