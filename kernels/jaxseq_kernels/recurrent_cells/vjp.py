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
  h, last, *states = _run(x, weights, marks, first, cell, block, interpret, keep=True)
  return (h, last), (x, weights, marks, states)


def _backward(cell, block, interpret, kept, gradients):
  from jaxseq_kernels.recurrent_cells import pallas_tpu

  x, weights, marks, states = kept
  options = dict(cell=cell, block=block, interpret=interpret)
  dx, dfirst = pallas_tpu.backward(x, weights, marks, states, *gradients, **options)
  H, seen, _ = weights.shape
  rows = lambda x: x.reshape(-1, x.shape[-1])
  # Columns of each head as they stand: another axis would lay the arrays out anew.
  of_head = lambda x, j: x[:, j * (x.shape[1] // H) :]

  def product(j):
    dgates = of_head(rows(dx), j)[:, :seen]
    h = of_head(rows(states[0]), j)[:, : weights.shape[2]]
    return jnp.einsum(
      "nj,nk->jk",
      dgates.astype(weights.dtype),
      h.astype(weights.dtype),
      precision="highest",
      preferred_element_type=jnp.float32,
    )

  dweights = jnp.stack([product(j) for j in range(H)])
  return dx, dweights.astype(weights.dtype), None, dfirst


run.defvjp(_forward, _backward)
