"""GPU scans for Hopper, by Mosaic GPU, for delta rules with decays by channel.

Of a chunk of C tokens `pallas_gpu_chunks.prepare` has made a map of the state S before
it,

    Z  = N v + W S                      what its tokens write
    o  = Q S + P Z + O v
    S' = D * S + A^T Z + R^T v

with D a number for each row of S. Where only Z is written, as by `channel_delta_rule`,
there are no O and R, and with U = v + W S

    Z  = X U

X being two halves of 16 bits: where keys repeat, what it loses never fades. `scan`
walks over the chunks of a piece of a head's sequence: a program, one warpgroup, for 64
columns of the values. It keeps the state, transposed, in registers, where it is the
left operand of products, as are U and Z.

`reverse` walks from the last token to the first, with Y the gradient of S':

    dZ = P^T do + A Y
    dv = N^T dZ + O^T do + R Y
    dS = D * Y + Q^T do + W^T dZ

or with X dv = X^T dZ, which then also takes the place of dZ in dS.
From S, Y, Z and dZ `pallas_gpu_chunks.gradients` makes all other gradients.

Of a chunk each matrix is in shared memory once, and its place is filled for the next
chunk as soon as it has been used: so two programs fit on a processor, one waiting while
the other multiplies.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxseq_kernels import hopper
from jaxseq_kernels.hopper_decays import wide
from jaxseq_kernels.matrix_states import CHUNK, up

__all__ = ["BLOCK", "maps", "reverse", "scan"]

BLOCK = 64  # Columns of the values that a program has.
KEYS = ("Q", "W", "A", "R")  # Arrays with channels of tokens,
PAIRS = ("P", "N", "O", "X")  # with pairs of tokens of a chunk,
STATES = ("S", "Y")  # with states before or after chunks; others with values of tokens.

bf16, f32 = jnp.bfloat16, jnp.float32
# Of U, Z and their gradients: with the 8 bits of one alone a state drifts.
halves = functools.partial(hopper.halves, dtype=bf16)


def scan(chunks, v, state, *, keep=False, interpret=False):
  """Outputs and last states.

  Args:
    chunks: From `pallas_gpu_chunks.prepare`.
    v: [B, T, H, V] bfloat16, V a multiple of 8.
    state: [B P, H, V', K'] float32 before each of P pieces, V' and K' being V and K
      padded to multiples of 64. Or None, for one piece and zeros.
    keep: Whether to return what the gradients need.

  Returns:
    o [B, T, H, V] bfloat16 and the states after each piece, as those before. Then, if
    kept, the states before each chunk, [B, H, N, V', K'], and Z as v, bfloat16.
  """
  outs = _scan(chunks, v, state, 1, True, keep, interpret)
  return tuple(outs[name] for name in ("o", "last", "S", "Z") if name in outs)


def maps(chunks, v, *, pieces, interpret=False):
  """What several pieces make of a state: S' = M S + W.

  Returns:
    W [B, P, H, V', K'] and M [B, P, H, K', K'], both transposed.
  """
  ended = hopper.with_end(v)
  last = _scan(chunks, ended, None, pieces, False, False, interpret)["last"]
  last = last.reshape(-1, pieces, *last.shape[1:])
  width, identity = (up(x.shape[-1], BLOCK) for x in (v, ended))
  return last[..., :width, :], last[..., identity:, :]


def _scan(chunks, v, state, pieces, reads, keep, interpret):
  both = chunks.R is not None
  solve, read = "WN" if both else "WX", "QPO" if reads else ""
  groups = dict(solve=solve, values="v", read=read, write="AR")

  def chunk(S, x, step, product):
    S_b, kept = step.hold("S", S), step.kept()
    step.wait("solve", "values")
    if both:
      left, right = [*S_b, x["v"].T], [*_blocks(x["W"]), x["N"].T]
    else:
      U, rest = halves(product(S_b, _blocks(x["W"])) + wide(x["v"].T))
      X, X_rest = (half.T for half in hopper.stacked(x["X"]))
      left, right = [U, rest, U], [X, X, X_rest]
    Z, rest = halves(product(left, right))
    step.fetch("solve") if both else step.fetch("solve", "values")
    S *= kept

    if reads:
      step.wait("read")
      left = [*S_b, Z, rest]
      right = [*_blocks(x["Q"]), x["P"].T, x["P"].T]
      if both:
        left, right = [*left, x["v"].T], [*right, x["O"].T]
      o = product(left, right).astype(bf16)
      step.fetch("read")
      step.send(o=o, Z=Z) if keep else step.send(o=o)

    step.wait("write")
    left, right = [Z, rest], [x["A"], x["A"]]
    if both:
      left, right = [*left, x["v"].T], [*right, x["R"]]
    S = product(left, right, S)
    step.fetch("write", "values") if both else step.fetch("write")
    return S

  return _walk(
    "scan" if reads else "maps",
    chunk,
    groups,
    chunks._asdict() | dict(v=v),
    ("o", "S", "Z") if keep else ("o",) if reads else (),
    state,
    pieces,
    interpret,
  )


def reverse(chunks, do, Z, state=None, *, pieces=None, interpret=False):
  """dv, and what the chunks' own gradients need.

  Args:
    chunks: As of `scan`.
    do: [B, T, H, V] bfloat16.
    Z: From `scan`; not read if there is an R, or if there are only the states.
    state: Gradients of the states after each piece, or None for zeros.
    pieces: If given, that many begin with zeros, and there are only the states.

  Returns:
    The gradients of the states before each piece, as those after it; dv, as do; those
    of the states after each chunk, Y, [B, H, N, V', K'] bfloat16. If there is an R, dZ,
    as do. Else dZ is dv in another form, and the last are sums of dv Z by token and
    block of columns, [B, H, V' / 64, N, CHUNK] float32, of dv before it is rounded.
  """
  both, ends = chunks.R is not None, pieces is not None
  solve = "X" if not both else "" if ends else "NOR"
  Z = None if both or ends else Z
  groups = dict(arrive="PA", values=["do", "Z"], solve=solve, leave="QW")

  def chunk(Y, x, step, product):
    Y_b, kept, do = step.hold("Y", Y), step.kept(), x["do"].T
    step.wait("arrive", "values")
    dZ, rest = halves(product([*Y_b, do], [*_blocks(x["A"]), x["P"]]))
    step.fetch("arrive")
    Y *= kept

    if not both:  # The gradient of U, that is of v, takes its place.
      step.wait("solve")
      X, X_rest = hopper.stacked(x["X"])
      dv = product([dZ, rest, dZ], [X, X, X_rest])
      dZ, rest = halves(dv)
      step.fetch("solve")
      if not ends:
        step.note(dots=hopper.sum_of_cols(dv * wide(x["Z"].T)))
        step.send(dv=dZ)
    elif not ends:
      step.wait("solve")
      left, right = [dZ, rest, *Y_b, do], [x["N"], x["N"], *_blocks(x["R"]), x["O"]]
      dv = product(left, right).astype(bf16)
      step.fetch("solve")
      step.send(dv=dv, dZ=dZ)

    step.wait("leave")
    left, right = [dZ, rest, do], [x["W"], x["W"], x["Q"]]
    Y = product(left, right, Y)
    step.fetch("leave", "values")
    return Y

  outs = _walk(
    "reverse_ends" if ends else "reverse",
    chunk,
    groups,
    chunks._asdict() | dict(do=do, Z=Z),
    () if ends else ("dv", "Y", "dZ" if both else "dots"),
    state,
    pieces or 1,
    interpret,
  )
  return tuple(outs.values())


class _Step(NamedTuple):
  """What can be done at a chunk.

  Attributes:
    wait: For groups of its matrices.
    fetch: Those of the next chunk.
    hold: A state in shared memory, as blocks of channels.
    send: What has been made of its tokens. No state is held any more.
    note: Numbers by token.
    kept: D, over the columns of a transposed state.
  """

  wait: Callable
  fetch: Callable
  hold: Callable
  send: Callable
  note: Callable
  kept: Callable


def _walk(kind, chunk, groups, arrays, sent, state, pieces, interpret):
  """Over the chunks of each piece.

  Args:
    kind: "scan", "maps", "reverse" or "reverse_ends".
    chunk: From the state before, the chunk's matrices in shared memory, a `_Step` and
      `product`, to the state after.
    groups: Of names, that are waited for and replaced together.
    arrays: By name; some None.
    sent: Names of what the chunks send.
    state: Before each piece, or None: zeros, and for maps the columns of the identity.
    pieces: How many, if there is no state.
    interpret: ...

  Returns:
    By name the last states, "last", and what was sent.
  """
  backwards = kind.startswith("reverse")
  op = "channel_delta_rule" if arrays["R"] is None else "dplr"
  present = lambda names: [name for name in names if arrays[name] is not None]
  groups = {group: present(names) for group, names in groups.items() if names}
  staged = [name for names in groups.values() for name in names]
  ins = {name: arrays[name] for name in ("D", *staged)}
  outs = _outs(arrays, sent, state, pieces, kind == "maps")
  B, N = ins["D"].shape[0], ins["D"].shape[2]
  BP, H, width, depth = outs["last"].shape
  values = arrays["do" if backwards else "v"]
  tokens = hopper.Tokens(values, depth=BLOCK, interpret=interpret)
  product = hopper.plain_product if interpret else hopper.product

  def program(*refs, x, x_values, y, arrived):
    x_values, values_copied = tokens.names(*x_values)
    (y,), (y_copied,) = tokens.names(y)
    x = x | dict(zip(groups["values"], x_values))
    copied = x | dict(zip(groups["values"], values_copied))
    state_ref = None if state is None else refs[0]
    ref = dict(zip((*ins, *outs), refs[state is not None :], strict=True))
    place = hopper.place(N, BP // B)
    mine = pl.ds(place.block * BLOCK, BLOCK)
    number = lambda i: place.first + (place.count - 1 - i if backwards else i)

    def at(name, n):
      """Where the program's part of an array is."""
      if name in STATES:
        return place.batch, place.head, n, mine
      if name in (*PAIRS, "D"):
        return place.batch, place.head, n
      if name == "dots":
        return place.batch, place.head, place.block, n
      # What is beyond the array's end arrives as 0.
      own = pl.ds(place.block * 0, depth) if name in KEYS else mine
      return place.batch, pl.ds(n * CHUNK, CHUNK), place.head, own

    def fetch(i, *names):
      @pl.when(i < place.count)
      def _():
        for group in names:
          for name in groups[group]:
            here = ref[name].at[at(name, number(i))]
            plgpu.copy_gmem_to_smem(here, copied[name].at[0], arrived[group])

    def wait(*names):
      for group in names:
        plgpu.barrier_wait(arrived[group])

    def hold(i, name, state):
      """In shared memory, by blocks of channels; also sent if it is to be."""
      blocks = range(depth // BLOCK)
      plgpu.wait_smem_to_gmem(0, wait_read_only=True)
      for c in blocks:
        y[c, ...] = state[:, c * BLOCK : (c + 1) * BLOCK].astype(bf16)
      plgpu.commit_smem()
      if name in sent:
        for c in blocks:
          here = *at(name, number(i)), pl.ds(c * BLOCK, BLOCK)
          plgpu.copy_smem_to_gmem(y_copied.at[c], ref[name].at[here])
      return [y.at[c] for c in blocks]

    def send(i, **arrays):
      plgpu.wait_smem_to_gmem(0, wait_read_only=True)
      for c, array in enumerate(arrays.values()):
        y.at[c].T[...] = array
      plgpu.commit_smem()
      for c, name in enumerate(arrays):
        plgpu.copy_smem_to_gmem(y_copied.at[c], ref[name].at[at(name, number(i))])

    def note(i, **numbers):
      for name, x in numbers.items():
        ref[name].at[at(name, number(i))][...] = x

    def kept(i):
      D = ref["D"].at[at("D", number(i))]
      D = plgpu.load(D, layout=hopper.COLS, optimized=False)
      return hopper.along_cols(D, BLOCK)

    def step(i, S):
      later = functools.partial(fetch, i + 1)
      now = [functools.partial(action, i) for action in (hold, send, note, kept)]
      zero = hopper.stage(i, 1)
      here = {name: ref.at[zero] for name, ref in x.items()}
      return chunk(S, here, _Step(wait, later, *now), product)

    for group in groups:
      fetch(0, group)
    here = place.row, place.head, mine
    if state is not None:
      S = plgpu.load(state_ref.at[here], layout=hopper.TILE, optimized=False)
    elif kind == "maps":
      row = hopper.iota((BLOCK, depth), 0) + (place.block * BLOCK - (width - depth))
      S = jnp.where(row == hopper.iota((BLOCK, depth), 1), 1.0, 0.0)
    else:
      S = hopper.zeros((BLOCK, depth))
    S = jax.lax.fori_loop(0, place.count, step, S)
    ref["last"].at[here][...] = S
    plgpu.wait_smem_to_gmem(0)

  run = plgpu.kernel(
    program,
    out_type=tuple(outs.values()),
    grid=(BP, H, width // BLOCK),
    grid_names=("batch", "head", "block"),
    scratch_types=dict(
      x={name: _buffer(name, depth) for name in staged if name in (*KEYS, *PAIRS)},
      x_values=[tokens.buffer(1, CHUNK, BLOCK)] * len(groups["values"]),
      y=tokens.buffer(max(2, depth // BLOCK), CHUNK, BLOCK),
      arrived={
        group: plgpu.Barrier(num_arrivals=len(names)) for group, names in groups.items()
      },
    ),
    compiler_params=plgpu.CompilerParams(approx_math=True),
    kernel_name=f"{op}_{kind}",
    interpret=interpret or None,
  )
  made = run(*([] if state is None else [state]), *ins.values())
  return dict(zip(outs, made, strict=True))


def _outs(arrays, sent, state, pieces, identity):
  """The types of what a walk returns."""
  values = arrays["do" if "do" in arrays else "v"]
  B, H, N, depth = arrays["D"].shape
  V = up(values.shape[-1], BLOCK)
  last = (B * pieces, H, V + depth if identity else V, depth)
  last = last if state is None else state.shape
  by_chunk = jax.ShapeDtypeStruct((B, H, N, V, depth), bf16)
  by_token = jax.ShapeDtypeStruct(values.shape, bf16)
  outs = {name: by_chunk if name in STATES else by_token for name in sent}
  if "dots" in sent:
    outs["dots"] = jax.ShapeDtypeStruct((B, H, V // BLOCK, N, CHUNK), f32)
  return dict(last=jax.ShapeDtypeStruct(last, f32)) | outs


def _buffer(name, depth):
  """Shared memory for a chunk of an array of keys or pairs."""
  rows = 2 * CHUNK if name == "X" else CHUNK
  return hopper.tiles((1, rows, depth if name in KEYS else CHUNK), bf16)


def _blocks(ref):
  """Blocks of channels, transposed."""
  count = ref.shape[1] // BLOCK
  return [ref.at[:, pl.ds(c * BLOCK, BLOCK)].T for c in range(count)]
