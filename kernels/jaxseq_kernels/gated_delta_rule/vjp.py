"""The scan made differentiable.

The forward pass leaves, for each chunk, the inverse T, w and the state before.
Backwards, a first scan gives dv and the gradient of the state; a second, for blocks of
the keys, all the rest (`pallas_gpu` has the equations).

A sequence is cut into pieces where its heads are too few to fill the device. A piece is
a map of the state, S' = M S + W. A first scan gives M and W, and thereby the states
between the pieces; backwards, dS = M^T dS' + what the piece's own outputs add.
"""

import functools
import math

import jax
import jax.numpy as jnp

from jaxseq_kernels import matrix_states

__all__ = ["scan"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8))
def scan(q, k, v, g, beta, state, scale, pieces, interpret):
  """Outputs, and the last state.

  Args:
    q: As k, v, g, beta and scale, of `pallas_gpu`.
    k: ...
    v: ...
    g: ...
    beta: ...
    state: [B, H, V', K'] float32, transposed and padded, or None for zeros.
    scale: ...
    pieces: P, that the sequence is cut into.
    interpret: ...
  """
  return _forward(q, k, v, g, beta, state, scale, pieces, interpret, keep=False)[0]


def _forward(q, k, v, g, beta, state, scale, pieces, interpret, *, keep):
  from jaxseq_kernels.gated_delta_rule import pallas_gpu

  T, G = pallas_gpu.inverses(k, g, beta, interpret=interpret)
  before, M = state, None
  if pieces > 1:
    W, M = pallas_gpu.maps(k, v, G, beta, T, pieces=pieces, interpret=interpret)
    before = matrix_states.between(state, W, M)
  o, after, *kept = pallas_gpu.scan(
    q, k, v, G, beta, T, before, scale=scale, keep=keep, interpret=interpret
  )
  last = after.reshape(-1, pieces, *after.shape[1:])[:, -1]
  return (o, last), (q, k, G, beta, T, M, state is None, *kept)


def _primals(q, k, v, g, beta, state, scale, pieces, interpret):
  value = lambda x: None if x is None else x.value
  arrays = map(value, (q, k, v, g, beta, state))
  return _forward(*arrays, scale, pieces, interpret, keep=True)


def _backward(scale, pieces, interpret, kept, gradients):
  from jaxseq_kernels.gated_delta_rule import pallas_gpu

  q, k, G, beta, T, M, stateless, w, S = kept
  do, dlast = map(matrix_states.given, gradients)
  do = jnp.zeros_like(w) if do is None else do
  options = dict(scale=scale, interpret=interpret)

  after = dlast
  if pieces > 1:
    (left,) = pallas_gpu.values(q, k, do, G, beta, T, pieces=pieces, **options)
    left = left.reshape(-1, pieces, *left.shape[1:])
    after = matrix_states.between(dlast, left, M, reverse=True)
  dfirst, dv = pallas_gpu.values(q, k, do, G, beta, T, after, **options)
  after = None if after is None else after.swapaxes(-1, -2)
  dq, dk, dg, dbeta = pallas_gpu.keys(q, k, do, dv, w, G, beta, S, after, **options)
  dg = math.log(2) * dg.sum(axis=2)  # g is a binary logarithm.
  dstate = None
  if not stateless:
    dstate = dfirst.reshape(-1, pieces, *dfirst.shape[1:])[:, 0]
  return dq, dk, dv, dg, dbeta.sum(axis=2), dstate


scan.defvjp(_primals, _backward, symbolic_zeros=True)
