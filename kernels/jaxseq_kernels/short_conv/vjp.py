"""The kernels made differentiable. The backward pass keeps the inputs and no output."""

import functools

import jax
import jax.numpy as jnp

from jaxseq_kernels.short_conv import pallas_gpu, pallas_tpu

__all__ = ["convolve"]

KERNELS = {"tpu": pallas_tpu, "gpu": pallas_gpu}


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def convolve(x, weight, bias, reach, activation, backend, interpret):
  """See `reference.forward`."""
  forward = KERNELS[backend].forward
  return forward(x, weight, bias, reach, activation=activation, interpret=interpret)


def _forward(x, weight, bias, reach, activation, backend, interpret):
  y = convolve(x, weight, bias, reach, activation, backend, interpret)
  return y, (x, weight, bias, reach)


def _backward(activation, backend, interpret, kept, dy):
  backward = KERNELS[backend].backward
  dx, sums = backward(*kept, dy, activation=activation, interpret=interpret)
  _, weight, bias, _ = kept
  taps, sums = weight.shape[0], jnp.sum(sums, axis=0)
  return dx, sums[:taps].astype(weight.dtype), sums[taps].astype(bias.dtype), None


convolve.defvjp(_forward, _backward)
