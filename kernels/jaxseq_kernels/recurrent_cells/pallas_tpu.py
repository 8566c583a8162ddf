"""TPU kernels, forward and backward. Grid [H / HB, B / BB, T / TB], time innermost.

    state_t = cell(state_{t-1}, x_t + (R h_{t-1}, 0))

as in FlashRNN (Poeppel et al. 2024, arXiv:2412.07752): the weights of HB heads and
their states stay in VMEM while all tokens pass, so that a token costs HBM nothing but
its own gates and outputs. A step multiplies the [BB, K] states of a head by its
[K, N K] weights; while it waits for the product, the other heads compute.

If it is to be differentiated, the forward kernel also writes the states that each token
saw, float32. The backward kernel makes the gates of all tokens of a block again from
them, by one product, and walks back: the gradient of a token's gates is that of the
cell, differentiated as it stands, and goes to HBM; times the weights it is that of the
state before. The weights' own gradient is the product of the gates' gradients and the
states over all tokens, which is left to XLA.

HBM sees of a token and channel of a head its G gates and h; with gradients moreover 4 S
bytes of states, written and read, and G gates and their gradients and h's once more.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxseq_kernels.recurrent_cells.cells import CELLS

__all__ = ["backward", "forward"]

UNROLL = 4  # Tokens of a turn: the products of one begin while another's cells end.
PADDING, STARTS = 0.0, 2.0  # Marks of tokens; those of all others are 1.

_PARAMS = pltpu.CompilerParams(
  dimension_semantics=("parallel", "parallel", "arbitrary")
)


def forward(x, weights, marks, first, *, cell, block, keep, interpret=False):
  """h of all tokens and the last state.

  Args:
    x: [T, B, H G K], K a multiple of 128.
    weights: [H, K, N K], those of the first N gates; the product is in their dtype.
    marks: [T, B, 128] float32, 0 at padding, 2 where the state is dropped first, else
      1; or [TB, B, 128] if those of each block are the same.
    first: [S, B, H K] float32, the state before the first token.
    cell: A key of `CELLS`.
    block: TB, BB and HB, which divide T, B and H.
    keep: Whether to return the states as well that each token saw.
    interpret: See `dispatch.fused`.

  Returns:
    h [T, B, H K] in the dtype of x, the last state [S, B, H K] and, if asked for, the S
    arrays [T, B, H K] of the states in float32.
  """
  (T, B, _), (H, K, _), S = x.shape, weights.shape, first.shape[0]
  TB, BB, HB = block
  spec = _Specs(block, marks, lambda n: n)
  states = jax.ShapeDtypeStruct((T, B, H * K), jnp.float32)
  return pl.pallas_call(
    functools.partial(_forward, cell=cell),
    grid=(H // HB, B // BB, T // TB),
    name=f"{cell}_forward",
    in_specs=[
      spec.tokens(x.shape[2] // H),
      spec.weights(weights.shape),
      spec.marks(),
      spec.state(S, K),
    ],
    out_specs=[spec.tokens(K), spec.state(S, K), *[spec.tokens(K)] * S * keep],
    out_shape=[
      jax.ShapeDtypeStruct((T, B, H * K), x.dtype),
      jax.ShapeDtypeStruct(first.shape, jnp.float32),
      *[states] * S * keep,
    ],
    scratch_shapes=[pltpu.VMEM((S, BB, HB * K), jnp.float32)],
    compiler_params=_PARAMS,
    interpret=interpret,
  )(x, weights, marks, first)


def backward(x, weights, marks, states, dh, dlast, *, cell, block, interpret=False):
  """The gradients of the gates and of the first state.

  Args:
    x: As for `forward`.
    weights: [H, N K, K], transposed.
    marks: ...
    states: S arrays, as `forward` returns them.
    dh: The gradient of h.
    dlast: That of the last state.
    cell: ...
    block: ...
    interpret: ...

  Returns:
    [T, B, H G K] in the dtype of x, and [S, B, H K] float32.
  """
  (T, B, _), (H, _, K), S = x.shape, weights.shape, dlast.shape[0]
  TB, BB, HB = block
  G = x.shape[2] // (H * K)
  spec = _Specs(block, marks, lambda n: T // TB - 1 - n)
  return pl.pallas_call(
    functools.partial(_backward, cell=cell),
    grid=(H // HB, B // BB, T // TB),
    name=f"{cell}_backward",
    in_specs=[
      spec.tokens(G * K),
      spec.weights(weights.shape),
      spec.marks(),
      spec.tokens(K),
      spec.state(S, K),
      *[spec.tokens(K)] * S,
    ],
    out_specs=[spec.tokens(G * K), spec.state(S, K)],
    out_shape=[
      jax.ShapeDtypeStruct(x.shape, x.dtype),
      jax.ShapeDtypeStruct(dlast.shape, jnp.float32),
    ],
    scratch_shapes=[
      pltpu.VMEM((S, BB, HB * K), jnp.float32),
      pltpu.VMEM((TB, BB, HB * G * K), jnp.float32),
    ],
    compiler_params=_PARAMS,
    interpret=interpret,
  )(x, weights, marks, dh, dlast, *states)


class _Specs:
  """The blocks of a program; `place` is that of its tokens in the order of the grid."""

  def __init__(self, block, marks, place):
    self.time, self.rows, self.heads = block
    self.lanes = marks.shape[2]
    self.place = place
    self.place_of_marks = place if marks.shape[0] > self.time else lambda n: 0

  def tokens(self, width):
    shape = (self.time, self.rows, self.heads * width)
    return pl.BlockSpec(shape, lambda h, b, n: (self.place(n), b, h))

  def state(self, S, K):
    return pl.BlockSpec((S, self.rows, self.heads * K), lambda h, b, n: (0, b, h))

  def marks(self):
    shape = (self.time, self.rows, self.lanes)
    return pl.BlockSpec(shape, lambda h, b, n: (self.place_of_marks(n), b, 0))

  def weights(self, shape):
    # Those of the next heads are needed so seldom that they may be waited for.
    return pl.BlockSpec(
      (self.heads, *shape[1:]), lambda h, b, n: (h, 0, 0), pipeline_mode=pl.Buffered(1)
    )


def _forward(x_ref, weights_ref, marks_ref, first_ref, h_ref, last_ref, *rest, cell):
  *kept, state_ref = rest
  HB, K, _ = weights_ref.shape

  @pl.when(pl.program_id(2) == 0)
  def _():
    state_ref[...] = first_ref[...]

  def step(t, j, state):
    of_head = pl.ds(j * K, K)
    mark = _wide(marks_ref[t], K)
    state = [jnp.where(mark == STARTS, 0.0, s) for s in state]
    for ref, s in zip(kept, state):
      ref[t, :, of_head] = s
    G = x_ref.shape[2] // (HB * K)
    gates = _split(x_ref[t, :, pl.ds(j * G * K, G * K)].astype(jnp.float32), K)
    seen = _split(_product(state[0], weights_ref[j]), K)
    gates = [a + b for a, b in zip(gates, seen)] + gates[len(seen) :]
    state, h = _advance(cell, mark, state, gates)
    h_ref[t, :, of_head] = h.astype(h_ref.dtype)
    return state

  _over_time(step, x_ref.shape[0], state_ref, K, reverse=False)
  last_ref[...] = state_ref[...]


def _backward(x_ref, weights_ref, marks_ref, dh_ref, dlast_ref, *rest, cell):
  S = dlast_ref.shape[0]
  states, (dx_ref, dfirst_ref, dstate_ref, gates_ref) = rest[:S], rest[S:]
  TB, BB, _ = x_ref.shape
  HB, seen, K = weights_ref.shape
  width = x_ref.shape[2] // HB

  @pl.when(pl.program_id(2) == 0)
  def _():
    dstate_ref[...] = dlast_ref[...]

  gates_ref[...] = x_ref[...].astype(jnp.float32)
  for j in range(HB):
    h = states[0][:, :, pl.ds(j * K, K)].reshape(TB * BB, K)
    product = _product(h, weights_ref[j], 1).reshape(TB, BB, seen)
    gates_ref[:, :, pl.ds(j * width, seen)] += product

  def step(t, j, dstate):
    of_head, its_gates = pl.ds(j * K, K), pl.ds(j * width, width)
    mark = _wide(marks_ref[t], K)
    state = [ref[t, :, of_head] for ref in states]
    gates = _split(gates_ref[t, :, its_gates], K)
    _, transpose = jax.vjp(functools.partial(_advance, cell, mark), state, gates)
    dstate, dgates = transpose((dstate, dh_ref[t, :, of_head].astype(jnp.float32)))
    dgates = jnp.concatenate(dgates, axis=1)
    dx_ref[t, :, its_gates] = dgates.astype(dx_ref.dtype)
    dstate[0] += _product(dgates[:, :seen], weights_ref[j])
    return [jnp.where(mark == STARTS, 0.0, d) for d in dstate]

  _over_time(step, TB, dstate_ref, K, reverse=True)
  dfirst_ref[...] = dstate_ref[...]


def _over_time(step, tokens, state_ref, K, reverse):
  """Runs step(t, j, state) -> state over the tokens of a block, for all heads j.

  A step waits for its product and its cell; those of the other heads fill the time.
  """
  S, _, width = state_ref.shape
  heads = [pl.ds(j * K, K) for j in range(width // K)]
  U = math.gcd(tokens, UNROLL)

  def some(n, states):
    for i in range(U):
      t = tokens - 1 - U * n - i if reverse else U * n + i
      states = [step(t, j, state) for j, state in enumerate(states)]
    return states

  states = [[state_ref[s, :, head] for s in range(S)] for head in heads]
  states = jax.lax.fori_loop(0, tokens // U, some, states)
  for head, state in zip(heads, states):
    for s in range(S):
      state_ref[s, :, head] = state[s]


def _advance(cell, mark, state, gates):
  """The state after a token and its h, where the state before is that it sees."""
  state_after = CELLS[cell](tuple(state), tuple(gates))
  there = mark > PADDING
  h = jnp.where(there, state_after[0], 0.0)
  return [jnp.where(there, s, old) for s, old in zip(state_after, state)], h


def _product(x, weights, axis=0):
  """x times weights over this axis of theirs, in their dtype; float32 sums."""
  exact = weights.dtype == jnp.float32
  return jax.lax.dot_general(
    x.astype(weights.dtype),
    weights,
    (((1,), (axis,)), ((), ())),
    precision=jax.lax.Precision.HIGHEST if exact else None,
    preferred_element_type=jnp.float32,
  )


def _split(x, width):
  """Columns, so many at a time."""
  return [x[:, n : n + width] for n in range(0, x.shape[1], width)]


def _wide(mark, width):
  """A mark, the same in all columns, with so many of them."""
  return jnp.concatenate([mark] * (width // mark.shape[1]), axis=1)
