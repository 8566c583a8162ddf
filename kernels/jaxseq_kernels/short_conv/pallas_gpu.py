"""GPU kernels for Hopper, by Mosaic GPU. Grid [B T / TB, D / DB].

The threads of a program, two channels each, walk over a piece of time with the last
W - 1 inputs in registers. Each input is read once, but for those before the piece, and
each output written once.

Backward they walk against time, with dz of the next W - 1 tokens in registers as well,
z being what is activated. Those of the piece after it a program makes again.

    dz_t = dy_t act'(z_t)                              db = sum_t dz_t
    dx_t = sum_d w_{W-1-d} dz_{t+d}                    where t + d sees t
    dw_{W-1-d} = sum_t x_t dz_{t+d}                    likewise

The sums over pieces are XLA's. A piece in which no document begins, as in most, goes
without reach: that takes fewer instructions.
"""

import jax
import jax.numpy as jnp

from jaxseq_kernels.short_conv.reference import slope

__all__ = ["CHANNELS", "TOKENS", "backward", "forward"]

CHANNELS = 256  # Of a program, two for each of its 128 threads.
TOKENS = 64  # Of a program.
TURN = 4  # Tokens that are read at once, and written at once.


def forward(x, weight, bias, reach, *, activation, interpret=False):
  """See `reference.forward`; D a multiple of `CHANNELS`, T of `TOKENS`."""
  B, T, D = x.shape
  taps = weight.shape[0]

  def walk(piece, x_ref, y_ref):
    def turn(n, past):
      tokens = [n * TURN + t for t in range(TURN)]
      inputs, ys = [piece.read(x_ref, t) for t in tokens], []
      for t, x in zip(tokens, inputs):
        past, reach = (x, *past), piece.reach(t)
        y = piece.linear(past, reach)
        y = y * _sigmoid(y) if activation == "silu" else y
        ys.append(piece.seen(reach, 0, y))
        past = past[: taps - 1]
      piece.write(y_ref, tokens, ys)
      return past

    past = tuple(piece.read_any(x_ref, -d) for d in range(1, taps))
    jax.lax.fori_loop(0, TOKENS // TURN, turn, past)

  outputs = jax.ShapeDtypeStruct((B * T, D), x.dtype)
  args = [x], weight, bias, reach
  return _run(walk, "forward", outputs, interpret, *args).reshape(x.shape)


def backward(x, weight, bias, reach, dy, *, activation, interpret=False):
  """dx in the dtype of x, and the terms of dw, by tap, and db, by piece, float32."""
  B, T, D = x.shape
  taps = weight.shape[0]

  def walk(piece, x_ref, dy_ref, dx_ref, sums_ref):
    def activated(dy, past, reach):
      """dz"""
      if activation != "silu":
        return dy
      z = piece.linear(past, reach)
      return dy * slope(z, _sigmoid(z))

    def turn(n, carry):
      past, later, sums = carry
      tokens = [TOKENS - 1 - n * TURN - t for t in range(TURN)]
      dys = [piece.read(dy_ref, t) for t in tokens]
      before, dxs = [piece.read_any(x_ref, t - taps) for t in tokens], []
      for t, dy, x in zip(tokens, dys, before):
        reach = piece.reach(t)
        later = ((activated(dy, past, reach), reach), *later)
        dx, new = 0.0, [sums[taps] + later[0][0]]
        for d, (dz, reach) in enumerate(later):
          dz = piece.seen(reach, d, dz)
          dx += piece.taps[d] * dz
          new.append(sums[taps - 1 - d] + past[0] * dz)
        dxs.append(dx)
        past, later, sums = (*past[1:], x), later[: taps - 1], new[::-1]
      piece.write(dx_ref, tokens, dxs)
      return past, later, tuple(sums)

    beyond = range(TOKENS + taps - 2, TOKENS - 1, -1)
    past, later = [piece.read_any(x_ref, beyond[0] - d) for d in range(taps)], ()
    for t in beyond:
      reach = piece.reach(t)
      later = ((activated(piece.read_any(dy_ref, t), past, reach), reach), *later)
      past = [*past[1:], piece.read_any(x_ref, t - taps)]
    zeros = tuple(jnp.zeros_like(piece.bias) for _ in range(taps + 1))
    carry = tuple(past), later, zeros
    *_, sums = jax.lax.fori_loop(0, TOKENS // TURN, turn, carry)
    for row, terms in enumerate(sums):
      sums_ref[jax.lax.axis_index("time"), row, piece.channels] = terms

  outputs = (
    jax.ShapeDtypeStruct((B * T, D), x.dtype),
    jax.ShapeDtypeStruct((B * T // TOKENS, taps + 1, D), jnp.float32),
  )
  args = [x, dy.astype(x.dtype)], weight, bias, reach
  dx, sums = _run(walk, "backward", outputs, interpret, *args)
  return dx.reshape(x.shape), sums


class _Piece:
  """What a program reads, in float32. Tokens count from its first."""

  def __init__(self, weight_ref, bias_ref, reach_ref, T):
    from jax.experimental import pallas as pl

    number, taps = jax.lax.axis_index("time"), weight_ref.shape[0]
    self.first = number * TOKENS
    self.start = self.first - jax.lax.rem(self.first, T)  # Of the sequence.
    self.end = self.start + T
    self.channels = pl.ds(jax.lax.axis_index("channel") * CHANNELS, CHANNELS)
    self.taps = [weight_ref[taps - 1 - d, self.channels] for d in range(taps)]
    self.bias = bias_ref[self.channels]
    self.reach_ref = reach_ref

  def read(self, ref, t):
    value = ref[self.first + t, self.channels].astype(jnp.float32)
    return self.seen(self.reach(t), 0, value)

  def read_any(self, ref, t):
    """Also outside of the sequence, where all is 0."""
    row = self.first + t
    inside = (row >= self.start) & (row < self.end)
    t = jnp.clip(row, self.start, self.end - 1) - self.first
    return self.read(ref, t) * jnp.where(inside, 1.0, 0.0)

  def write(self, ref, tokens, values):
    for t, value in zip(tokens, values):
      ref[self.first + t, self.channels] = value.astype(ref.dtype)

  def reach(self, t):
    """None if all that there are are seen."""
    row = jnp.minimum(self.first + t, self.end - 1)
    return None if self.reach_ref is None else self.reach_ref[row]

  def seen(self, reach, d, value):
    """The value if a token sees the one d before it, else zeros."""
    if reach is None:
      return value
    return jnp.where(jnp.broadcast_to(reach, value.shape) >= d, value, 0.0)

  def linear(self, past, reach):
    """What is activated of a token whose inputs, itself first, are these."""
    terms = (
      self.seen(reach, d, w * x) for d, (w, x) in enumerate(zip(self.taps, past))
    )
    return sum(terms, self.bias)


def _sigmoid(x):
  """1 / (1 + exp(-x)), by a root, as a division has to be ready for any numbers."""
  root = jax.lax.rsqrt(1.0 + jnp.exp(-x))
  return root * root


def _run(walk, name, outputs, interpret, arrays, weight, bias, reach):
  """Walks over all pieces; arrays over tokens have one axis for all of them."""
  from jax.experimental import pallas as pl
  from jax.experimental.pallas import mosaic_gpu as plgpu

  B, T, D = arrays[0].shape
  args = [x.reshape(B * T, D) for x in arrays]
  args += [weight.astype(jnp.float32), bias.astype(jnp.float32)]
  if reach is not None:
    args += [reach.reshape(-1), _whole(reach, weight.shape[0])]

  def program(*refs):
    ins, outs = refs[: len(args)], refs[len(args) :]
    rows, (weight_ref, bias_ref, *reach_refs) = ins[: len(arrays)], ins[len(arrays) :]
    run = lambda reach_ref: walk(
      _Piece(weight_ref, bias_ref, reach_ref, T), *rows, *outs
    )
    if reach is None:
      return run(None)
    reach_ref, whole_ref = reach_refs
    whole = whole_ref[jax.lax.axis_index("time")] != 0
    pl.when(whole)(lambda: run(None))
    pl.when(jnp.logical_not(whole))(lambda: run(reach_ref))

  run = plgpu.kernel(
    program,
    out_type=outputs,
    grid=(B * T // TOKENS, D // CHANNELS),
    grid_names=("time", "channel"),
    # No thread reads what another writes.
    compiler_params=plgpu.CompilerParams(
      approx_math=True, unsafe_no_auto_barriers=True
    ),
    kernel_name=f"short_conv_{name}",
    interpret=interpret or None,
  )
  return run(*args)


def _whole(reach, taps):
  """[B T / TOKENS], 1 for pieces without whose reach all would be the same."""
  B, T = reach.shape
  same = reach == jnp.minimum(jnp.arange(T), taps - 1)
  same = same.reshape(B, -1, TOKENS)
  after = jnp.pad(
    same[:, 1:, : taps - 1], ((0, 0), (0, 1), (0, 0)), constant_values=True
  )
  return (same.all(axis=2) & after.all(axis=2)).astype(jnp.int32).reshape(-1)
