"""The step made differentiable, by its reference: one token is not trained on."""

import functools

import jax

from jaxseq_kernels.matrix_step import reference

__all__ = ["step"]


@functools.partial(jax.custom_jvp, nondiff_argnums=(8, 9))
def step(q, k, v, state, log_decay, beta, a, b, scale, interpret):
  """Output and state after it; see `reference.forward`."""
  from jaxseq_kernels.matrix_step import pallas_gpu

  arrays = q, k, v, state, log_decay, beta, a, b
  return pallas_gpu.step(*arrays, scale=scale, interpret=interpret)


@step.defjvp
def _jvp(scale, interpret, primals, tangents):
  del interpret
  forward = functools.partial(reference.forward, scale=scale)
  return jax.jvp(forward, primals, tangents)
