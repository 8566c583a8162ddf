"""The selective scan, Mamba's S6 (Gu & Dao 2023, arXiv:2312.00752, sec. 3.2 and 3.3).

    h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t        state [D, N], A [D, N] negative
    y_t = C_t h_t + D x_t                           B_t and C_t [N], dt_t and x_t [D]

For each of D channels a diagonal system of N states, whose step, input and output
depend on the token. Its states at all tokens, N times the inputs, are never stored: the
backward pass makes them again, block by block (sec. 3.3.2).

`by_rule` is the same scan for any rule that makes the factor of the state from dt_t and
B_t. States are [B, N, D] inside, so that what is added up is not the last axis.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxseq_kernels import selective_scan as kernel
from jaxtyping import Array, Bool, Float, Int

from jaxseq.ops import blocks, checks, dispatch, segments, sharded
from jaxseq.ops.dispatch import Form

__all__ = ["IMPLEMENTATIONS", "by_rule", "selective_scan"]

# Tokens whose states are held at once. On an H200 forward and backward of 8 x 2048 x
# 2048 bfloat16, N = 16, take 74, 39 and 54 ms with blocks of 16, 64 and 256.
CHUNK_SIZE = 64


class Tokens(NamedTuple):
  """What the forms scan over. At padding all is zero, which keeps the state.

  Attributes:
    x: Inputs.
    dt: Steps.
    B: How inputs are written.
    C: How states are read.
    starts: True where a document starts and the state is dropped; None for nowhere.
  """

  x: Float[Array, "B T D"]
  dt: Float[Array, "B T D"]
  B: Float[Array, "B T N"]
  C: Float[Array, "B T N"]
  starts: Bool[Array, "B T"] | None


class Fading(NamedTuple):
  """The rule of this op, exp(dt_t A).

  Attributes:
    rates: A, transposed.
  """

  rates: Float[Array, "N D"]

  def __call__(self, dt, B):
    return jnp.exp(dt[..., None, :] * self.rates)


def selective_scan(
  x: Float[Array, "B T D"],
  dt: Float[Array, "B T D"],
  A: Float[Array, "D N"],
  B: Float[Array, "B T N"],
  C: Float[Array, "B T N"],
  D: Float[Array, "D"] | None = None,
  *,
  initial_state: Float[Array, "B D N"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T D"], Float[Array, "B D N"]]:
  """Runs a state space whose step, input and output matrices depend on the token.

  Args:
    x: Inputs.
    dt: Step sizes, >= 0. Not checked.
    A: Rates at which the states fade, <= 0. Not checked.
    B: How inputs are written into the states.
    C: How states are read.
    D: Weights of the inputs in the outputs. Zeros if None.
    initial_state: State before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs in the dtype of `x`, and the last state in float32.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  checks.check_shapes(
    "selective_scan", x=(x, "B T D"), B=(B, "B T N"), A=(A, "D N"), D=(D, "D")
  )
  kind = jnp.promote_types(x.dtype, jnp.float32)
  y, state = by_rule(
    "selective_scan",
    Fading(A.T.astype(kind)),
    dict(x=x, dt=dt, B=B, C=C),
    initial_state,
    segment_ids,
    implementation,
  )
  if D is not None:
    y += D.astype(kind) * segments.clear_padding(x, segment_ids).astype(kind)
  return y.astype(x.dtype), state


def by_rule(
  op: str,
  factor: Callable[[Array, Array], Array],
  tokens: Mapping[str, Array],
  initial_state: Float[Array, "B D N"] | None,
  segment_ids: Int[Array, "B T"] | None,
  implementation: str,
) -> tuple[Float[Array, "B T D"], Float[Array, "B D N"]]:
  """h_t = factor(dt_t, B_t) h_{t-1} + dt_t B_t x_t,   y_t = C_t h_t.

  Args:
    op: Name for messages.
    factor: What is kept of the state, [..., N, D], from dt [..., D] and B [..., N]; one
      where they are zero.
    tokens: x, dt, B and C in this order, by the names that the op gives them.
    initial_state: State before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    Outputs and the last state, both in at least float32.
  """
  axes = ("B T D", "B T D", "B T N", "B T N")
  sizes = checks.check_shapes(
    op,
    **{name: (array, letters) for (name, array), letters in zip(tokens.items(), axes)},
    initial_state=(initial_state, "B D N"),
    segment_ids=(segment_ids, "B T"),
  )
  arrays = list(tokens.values())
  kind = jnp.promote_types(arrays[0].dtype, jnp.float32)
  shape = tuple(sizes[letter] for letter in "BDN")
  state = jnp.zeros(shape, kind) if initial_state is None else initial_state
  starts = None
  if segment_ids is not None:
    starts = segments.parse(segment_ids).starts
    arrays = [segments.clear_padding(x, segment_ids) for x in arrays]
  args = (factor, Tokens(*arrays, starts), state.swapaxes(1, 2).astype(kind))
  run = dispatch.select(op, IMPLEMENTATIONS, implementation, sizes["T"], *args)
  y, state = run(*args)
  return segments.clear_padding(y, segment_ids), state.swapaxes(1, 2)


def update(factor, token, kind):
  """The map h -> a h + b of a token, or of many [..., N, D]."""
  x, dt, B = (y.astype(kind) for y in token[:3])
  a = factor(dt, B)
  if token.starts is not None:
    a = jnp.where(token.starts[..., None, None], 0, a)
  return a, B[..., None] * (dt * x)[..., None, :]


def read(h, token):
  """y from the states [..., N, D]."""
  return jnp.sum(token.C.astype(h.dtype)[..., None] * h, axis=-2)


def recurrent(factor, tokens, state):
  """The definition. The backward pass makes the factors of each token again."""

  @functools.partial(jax.checkpoint, prevent_cse=False)  # A loop's body needs no guard.
  def step(h, token):
    a, b = update(factor, token, h.dtype)
    h = a * h + b
    return h, read(h, token)

  by_time = jax.tree.map(lambda y: y.swapaxes(0, 1), tokens)
  state, y = jax.lax.scan(step, state, by_time)
  return y.swapaxes(0, 1), state


def associative(factor, tokens, state):
  """The maps of all tokens, composed by a tree. All T states are held."""

  def compose(first, then):
    (a, x), (b, y) = first, then
    return a * b, b * x + y

  maps = update(factor, tokens, state.dtype)
  kept, h = jax.lax.associative_scan(compose, maps, axis=1)
  h = h + kept * state[:, None]
  return read(h, tokens), h[:, -1]


def chunked(factor, tokens, state):
  """Block by block; the backward pass makes the states of each block again.

  Within a block a CPU goes from token to token, and others compose the maps by a tree.
  """
  T = tokens.x.shape[1]
  size = min(CHUNK_SIZE, T)
  inner = recurrent if dispatch.platform() == "cpu" else associative

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def block(state, tokens):
    y, state = inner(factor, tokens, state)
    return state, y

  # The last block is padded with zeros, which keep the state.
  state, y = jax.lax.scan(block, state, blocks.split(tokens, size))
  return blocks.join(y, T), state


def _pallas(backend):
  """The kernel, of the rule `Fading` alone."""

  def arrays(factor, tokens, state):
    x, dt, B, C, starts = tokens
    return x, dt, factor.rates, B, C, state, starts

  def run(factor, tokens, state):
    axes = ("BTD", "BTD", "ND", "BTN", "BTN", "BND", "BT")
    fused = functools.partial(kernel.fused, backend=backend)
    args = arrays(factor, tokens, state)
    return sharded.over_batch_and_heads(fused, args, axes, ("BTD", "BND"))

  def refusal(factor, tokens, state):
    if not isinstance(factor, Fading):
      return "it is for factors exp(dt A) alone"
    args = arrays(factor, tokens, state)
    return dispatch.no_kernels(backend) or kernel.refusal(*args, backend=backend)

  return Form(run, refusal)


IMPLEMENTATIONS = {
  "pallas_tpu": _pallas("tpu"),
  "chunked": Form(chunked),
  "associative": Form(associative),
  "recurrent": Form(recurrent),
}
