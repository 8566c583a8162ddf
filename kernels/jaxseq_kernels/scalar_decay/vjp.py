"""The scan made differentiable: its gradients are scans as well.

With D_ij = exp(g_{j+1} + ... + g_i) for j <= i, and with do the gradient of o,

    o_i  = sum_j D_ij (q_i . k_j) v_j        from the first token to the last
    dq_i = sum_j D_ij (do_i . v_j) k_j       likewise
    dv_j = sum_i D_ij (k_j . q_i) do_i       from the last token to the first
    dk_j = sum_i D_ij (v_j . do_i) q_i       likewise

and the state of the last two is the gradient of that of the first two, or transposed.
Nothing is kept but the inputs and the states between pieces.

A sequence is cut into pieces where its heads are too few to fill the device. A first
scan gives what each piece leaves from an empty state, and thereby the states between.
"""

import functools
import math

import jax
import jax.numpy as jnp

from jaxseq_kernels import matrix_states

__all__ = ["scan"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def scan(q, k, v, g, state, scale, pieces, interpret):
  """Outputs, and the last state.

  Args:
    q: As k, v, g and scale, of `pallas_gpu.scan`.
    k: ...
    v: ...
    g: ...
    state: [B, H, V', K'] float32, transposed and padded, or None for zeros.
    scale: ...
    pieces: P, that the sequence is cut into.
    interpret: ...
  """
  return _forward(q, k, v, g, state, scale, pieces, interpret)[0]


def _forward(q, k, v, g, state, scale, pieces, interpret):
  from jaxseq_kernels.scalar_decay import pallas_gpu

  options = dict(scale=scale, interpret=interpret)
  left = None
  if pieces > 1:
    left = pallas_gpu.ends(k, v, g, pieces=pieces, **options)
  before = _between(g, state, left, pieces, reverse=False)
  o, after = pallas_gpu.scan(q, k, v, g, before, **options)
  last = after.reshape(-1, pieces, *after.shape[1:])[:, -1]
  return (o, last), (q, k, v, g, state is None, before)


def _primals(q, k, v, g, state, scale, pieces, interpret):
  value = lambda x: None if x is None else x.value
  return _forward(*map(value, (q, k, v, g, state)), scale, pieces, interpret)


def _backward(scale, pieces, interpret, kept, gradients):
  from jaxseq_kernels.scalar_decay import pallas_gpu

  q, k, v, g, stateless, before = kept
  do, dlast = map(matrix_states.given, gradients)
  do = jnp.zeros_like(v) if do is None else do
  transpose = lambda x: None if x is None else x.swapaxes(-1, -2)
  options = dict(scale=scale, interpret=interpret)

  left = None
  if pieces > 1:
    left = pallas_gpu.ends(q, do, g, pieces=pieces, reverse=True, **options)
  after = _between(g, dlast, left, pieces, reverse=True)
  dq, rows, anchors = pallas_gpu.queries(do, v, k, g, transpose(before), q, **options)
  dv, dfirst = pallas_gpu.scan(k, q, do, g, after, reverse=True, **options)
  dk, dg = pallas_gpu.keys(v, do, q, g, transpose(after), k, rows, anchors, **options)
  dg = math.log(2) * dg.sum(axis=2)  # g is a binary logarithm.
  dstate = None
  if not stateless:
    dstate = dfirst.reshape(-1, pieces, *dfirst.shape[1:])[:, 0]
  return dq, dk, dv, dg, dstate


def _between(g, first, left, pieces, *, reverse):
  """The states before each piece, [B P, H, V', K'], in the order of time.

  Args:
    g: [B, H, N, C].
    first: [B, H, V', K'] before the first piece, or None for zeros.
    left: [B P, H, V', K'] after each piece from an empty state, or None for one piece.
    pieces: P.
    reverse: The last piece is the first.
  """
  if left is None:
    return first
  B, H, N, _ = g.shape
  size = -(-N // pieces)
  total = jnp.minimum(g, 0).sum(axis=-1)
  total = jnp.pad(total, ((0, 0), (0, 0), (0, pieces * size - N)))
  total = total.reshape(B, H, pieces, size).sum(axis=-1)
  left = left.reshape(B, pieces, *left.shape[1:])
  if reverse:
    total, left = total[..., ::-1], left[:, ::-1]
  first = jnp.zeros_like(left[:, 0]) if first is None else first
  sources = jnp.concatenate([first[:, None], left[:, :-1]], axis=1)
  # Source s is before piece s; to reach piece p it passes those from s to p - 1.
  p, s, m = (jnp.arange(pieces).reshape(shape) for shape in ((-1, 1, 1), (-1, 1), -1))
  passed = jnp.einsum(
    "psm,bhm->bhps", ((s <= m) & (m < p)) * 1.0, total, precision="highest"
  )
  share = jnp.where((s <= p)[..., 0], jnp.exp2(passed), 0)
  states = jnp.einsum("bhps,bshvk->bphvk", share, sources, precision="highest")
  if reverse:
    states = states[:, ::-1]
  return states.reshape(B * pieces, *states.shape[2:])


scan.defvjp(_primals, _backward, symbolic_zeros=True)
