"""The kernels made differentiable.

What is kept are the inputs and, in float32, the states that each token saw: no gate.
"""

import functools

import jax
import jax.numpy as jnp

__all__ = ["run"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def run(x, weights, marks, first, cell, block, interpret):
  """h of all tokens and the last state.

  Args:
    x: As marks, first, cell, block and interpret, of `pallas_tpu.forward`.
    weights: [H, N K, K], the state's axis last.
    marks: ...
    first: ...
    cell: ...
    block: ...
    interpret: ...
  """
  return _run(x, weights, marks, first, cell, block, interpret, keep=False)


def _run(x, weights, marks, first, cell, block, interpret, keep):
  from jaxseq_kernels.recurrent_cells import pallas_tpu

  return pallas_tpu.forward(
    x,
    weights.swapaxes(1, 2),
    marks,
    first,
    cell=cell,
    block=block,
    keep=keep,
    interpret=interpret,
  )


def _forward(x, weights, marks, first, cell, block, interpret):
  h, last, states = _run(
    x, weights, marks, first, cell, block, interpret, keep=True
  )
  return (h, last), (x, weights, marks, states)


def _backward(cell, block, interpret, kept, gradients):
  from jaxseq_kernels.recurrent_cells import pallas_tpu

  x, weights, marks, states = kept
  options = dict(cell=cell, block=block, interpret=interpret)
  dx, dfirst = pallas_tpu.backward(x, weights, marks, states, *gradients, **options)
  (T, B, _), (H, seen, K) = x.shape, weights.shape
  dgates = dx.reshape(T, B, H, -1)[..., :seen].astype(weights.dtype)
  h = states[0].reshape(T, B, H, K).astype(weights.dtype)
  dweights = jnp.einsum(
    "tbhj,tbhk->hjk",
    dgates,
    h,
    precision="highest",
    preferred_element_type=jnp.float32,
  )
  return dx, dweights.astype(weights.dtype), None, dfirst


run.defvjp(_forward, _backward)
