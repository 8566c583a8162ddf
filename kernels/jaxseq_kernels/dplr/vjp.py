"""The scan made differentiable.

`pallas_gpu_chunks` makes of each chunk a map of the state before it, `pallas_gpu` walks
over these maps. Backwards, a second walk brings the gradients of the states, and chunk
by chunk come all the others. The forward pass keeps Z and the state before each chunk,
in bfloat16; the maps are several times as many numbers, and are made again.

A sequence is cut into pieces where its heads are too few to fill the device. A piece is
a map of the state too, S' = M S + W. A first scan gives M and W, and thereby the states
between the pieces; backwards, dS = M^T dS' + what the piece's own outputs add.
"""

import functools

import jax
import jax.numpy as jnp

from jaxseq_kernels import matrix_states

__all__ = ["scan"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(9, 10, 11))
def scan(q, k, v, g, docs, b, a, beta, state, scale, pieces, interpret):
  """Outputs, and the last state.

  Args:
    q: As k, g, docs, b, a, beta and scale, of `pallas_gpu_chunks.prepare`.
    k: ...
    v: Of `pallas_gpu.scan`.
    g: ...
    docs: ...
    b: ...
    a: ...
    beta: ...
    state: [B, H, V, K'] float32, transposed, or None for zeros.
    scale: ...
    pieces: P, that the sequence is cut into.
    interpret: ...
  """
  inputs = (q, k, v, g, docs, b, a, _not_zero(beta))
  return _forward(inputs, state, scale, pieces, interpret, keep=False)[0]


def _forward(inputs, state, scale, pieces, interpret, *, keep):
  from jaxseq_kernels.dplr import pallas_gpu, pallas_gpu_chunks

  q, k, v, *gates = inputs
  options = dict(interpret=interpret)
  chunks = pallas_gpu_chunks.prepare(q, k, *gates, scale=scale, **options)
  before, M = state, None
  if pieces > 1:
    W, M = pallas_gpu.maps(chunks, v, pieces=pieces, **options)
    before = matrix_states.between(state, W, M)
  o, after, *kept = pallas_gpu.scan(chunks, v, before, keep=keep, **options)
  last = after.reshape(-1, pieces, *after.shape[1:])[:, -1]
  return (o, last), (inputs, M, state is None, *kept)


def _primals(*args):
  *arrays, scale, pieces, interpret = args
  *inputs, beta, state = (None if x is None else x.value for x in arrays)
  inputs = (*inputs, _not_zero(beta))
  return _forward(inputs, state, scale, pieces, interpret, keep=True)


def _backward(scale, pieces, interpret, kept, gradients):
  from jaxseq_kernels.dplr import pallas_gpu, pallas_gpu_chunks

  inputs, M, stateless, S, Z = kept
  do, dlast = map(matrix_states.given, gradients)
  do = jnp.zeros_like(Z) if do is None else do
  options = dict(interpret=interpret)
  # Else the compiler would find the maps of the forward pass, and keep them.
  inputs, do = jax.lax.optimization_barrier((inputs, do))
  q, k, v, *gates = inputs
  chunks = pallas_gpu_chunks.prepare(q, k, *gates, scale=scale, **options)

  after = dlast
  if pieces > 1:
    (left,) = pallas_gpu.reverse(chunks, do, Z, pieces=pieces, **options)
    left = left.reshape(-1, pieces, *left.shape[1:])
    after = matrix_states.between(dlast, left, M, reverse=True)
  dfirst, dv, Y, rest = pallas_gpu.reverse(chunks, do, Z, after, **options)
  g, docs, b, a, beta = gates
  dZ, dbeta = rest, None
  if beta is not None:
    # A token adds beta z to its key's values, and dz is dv: so dv_j . Z_j / beta_j, in
    # which nothing cancels when keys repeat.
    dZ, dbeta = dv, rest.sum(axis=2) / beta
  dq, dk, dg, db, da = pallas_gpu_chunks.gradients(
    q, k, v, do, g, docs, chunks.X, S, Y, Z, dZ, b, a, beta, scale=scale, **options
  )
  dstate = None
  if not stateless:
    dstate = dfirst.reshape(-1, pieces, *dfirst.shape[1:])[:, 0]
  return dq, dk, dv, dg, jnp.zeros_like(docs), db, da, dbeta, dstate


def _not_zero(beta):
  return None if beta is None else matrix_states.not_zero(beta)


scan.defvjp(_primals, _backward, symbolic_zeros=True)
