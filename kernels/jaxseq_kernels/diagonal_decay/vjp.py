"""The scan made differentiable.

With D_ij = exp(g_{j+1} + ... + g_i) by channel for j <= i, and do the gradient of o,

    o_i  = sum_j (q_i . D_ij k_j) v_j        from the first token to the last
    dv_j = sum_i (k_j . D_ij q_i) do_i       from the last token to the first

are the same scan. The state of the second is the gradient of that of the first; from
both, before and after each chunk, `pallas_gpu.gradients` makes dq, dk and dg by chunk.
Of the first scan are kept, in bfloat16, the states before chunks, N K V numbers a head,
and the scores within them, T C numbers a head.

A sequence is cut into pieces where its heads are too few to fill the device. A first
scan gives what each piece leaves from an empty state, and thereby the states between.
"""

import functools

import jax
import jax.numpy as jnp

__all__ = ["scan"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8))
def scan(q, k, v, g, docs, state, scale, pieces, interpret):
  """Outputs, and the last state.

  Args:
    q: As k, v, g, docs and scale, of `pallas_gpu.scan`.
    k: ...
    v: ...
    g: ...
    docs: ...
    state: [B, H, V, K'] float32, transposed, or None for zeros.
    scale: ...
    pieces: P, that the sequence is cut into.
    interpret: ...
  """
  return _forward(q, k, v, g, docs, state, scale, pieces, interpret, keep=False)[0]


def _forward(q, k, v, g, docs, state, scale, pieces, interpret, *, keep=True):
  from jaxseq_kernels.diagonal_decay import pallas_gpu

  scores = pallas_gpu.scores(q, k, g, docs, interpret=interpret)
  o, last, *states = _walk(
    q, k, v, g, docs, state, scores, scale, pieces, interpret, keep=keep
  )
  return (o, last), (q, k, v, g, docs, state is None, *states, scores)


def _backward(scale, pieces, interpret, kept, gradients):
  from jaxseq_kernels.diagonal_decay import pallas_gpu

  q, k, v, g, docs, stateless, states, scores = kept
  do, dlast = gradients
  # States in reverse are divided by the scale, which outputs are multiplied with.
  dv, dfirst, dstates = _walk(
    *(k, q, do, g, docs, dlast / scale, scores, scale, pieces, interpret),
    reverse=True,
    keep=True,
  )
  dq, dk, dg = pallas_gpu.gradients(
    q, k, v, do, g, docs, states, dstates, scale=scale, interpret=interpret
  )
  return dq, dk, dv, dg, jnp.zeros_like(docs), None if stateless else dfirst * scale


scan.defvjp(_forward, _backward)


def _walk(
  q, k, v, g, docs, state, scores, scale, pieces, interpret, *, keep, reverse=False
):
  """`pallas_gpu.scan` of a sequence in pieces."""
  from jaxseq_kernels.diagonal_decay import pallas_gpu

  if pieces > 1:
    left, totals = pallas_gpu.ends(
      k, v, g, docs, pieces=pieces, reverse=reverse, interpret=interpret
    )
    state = _between(state, left, totals, pieces, reverse)
  options = dict(scale=scale, reverse=reverse, keep=keep, interpret=interpret)
  o, after, *kept = pallas_gpu.scan(q, k, v, g, docs, state, scores, **options)
  after = after.reshape(-1, pieces, *after.shape[1:])
  return o, after[:, 0 if reverse else -1], *kept


def _between(first, left, totals, pieces, reverse):
  """The states before each piece, [B P, H, V, K'], in the order of time.

  Args:
    first: [B, H, V, K'] before the first piece, or None for zeros.
    left: [B P, H, V, K'] after each piece from an empty state.
    totals: [B P, H, K'], binary logarithms of what each piece leaves of a state.
    pieces: P.
    reverse: The last piece is the first.
  """
  by_piece = lambda x: x.reshape(-1, pieces, *x.shape[1:]).swapaxes(0, 1)
  left, kept = by_piece(left), jnp.exp2(by_piece(totals))[..., None, :]
  first = jnp.zeros_like(left[0]) if first is None else first

  def step(state, piece):
    left, kept = piece
    return kept * state + left, state

  _, states = jax.lax.scan(step, first, (left, kept), reverse=reverse)
  states = states.swapaxes(0, 1)
  return states.reshape(-1, *states.shape[2:])
