"""GPU scans for Hopper, by Mosaic GPU, for delta rules with decays by channel.

Of a chunk of C tokens `pallas_chunks.prepare` has made a map of the state S before it,

    Z  = N v + W S                      what its tokens write
    o  = Q S + P Z + O v
    S' = D * S + A^T Z + R^T v

with D a number for each row of S. Where only Z is written, as by `channel_delta_rule`,
there are no O and R. `scan` walks over the chunks of a piece of a head's sequence: a
program, one warpgroup, for 64 columns of the values. It keeps the state, transposed, in
registers, where it is the left operand of products, as is Z.

`reverse` walks from the last token to the first, with Y the gradient of S':

    dZ = P^T do + A Y
    dv = N^T dZ + O^T do + R Y
    dS = D * Y + Q^T do + W^T dZ

From S, Y, Z and dZ `pallas_chunks.gradients` makes all other gradients.

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
from jaxseq_kernels.matrix_states import CHUNK

__all__ = ["BLOCK", "maps", "reverse", "scan"]

BLOCK = 64  # Columns of the values that a program has.

bf16, f32 = jnp.bfloat16, jnp.float32


def scan(chunks, v, state, *, keep=False, interpret=False):
  """Outputs and last states.

  Args:
    chunks: From `pallas_chunks.prepare`.
    v: [B, T, H, V] bfloat16, T a multiple of 8 and V of 64.
    state: [B P, H, V, K'] float32 before each of P pieces, K' being K padded to a
      multiple of 64. Or None, for one piece and zeros.
    keep: Whether to return what the gradients need.

  Returns:
    o [B, T, H, V] bfloat16 and the states after each piece, as those before. Then, if
    kept, the states before each chunk, [B, H, N, V, K'], and Z as v, bfloat16.
  """
  outs = _scan(chunks, v, state, 1, True, keep, interpret)
  return tuple(outs[name] for name in ("o", "last", "S", "Z") if name in outs)


def maps(chunks, v, *, pieces, interpret=False):
  """What several pieces make of a state: S' = M S + W.

  Returns:
    W [B, P, H, V, K'] and M [B, P, H, K', K'], both transposed.
  """
  last = _scan(chunks, v, None, pieces, False, False, interpret)["last"]
  last = last.reshape(-1, pieces, *last.shape[1:])
  V = v.shape[-1]
  return last[..., :V, :], last[..., V:, :]


def _scan(chunks, v, state, pieces, reads, keep, interpret):
  both = chunks.R is not None
  groups = dict(solve="WN", values="v", read="QPO" if reads else "", write="DAR")

  def chunk(S, x, step, product):
    S_b = S.astype(bf16)
    if keep:
      step.send(S=S_b)
    step.wait("solve", "values")
    Z = product([S_b, x["v"].T], [x["W"].T, x["N"].T]).astype(bf16)
    step.fetch("solve") if both else step.fetch("solve", "values")

    if reads:
      step.wait("read")
      left, right = [S_b, Z], [x["Q"].T, x["P"].T]
      if both:
        left, right = [*left, x["v"].T], [*right, x["O"].T]
      o = product(left, right).astype(bf16)
      step.fetch("read")
      step.send(o=o, Z=Z) if keep else step.send(o=o)

    step.wait("write")
    left, right = [Z], [x["A"]]
    if both:
      left, right = [*left, x["v"].T], [*right, x["R"]]
    S = product(left, right, S * _by_channel(x["D"]))
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


def reverse(chunks, do, state=None, *, pieces=None, interpret=False):
  """dv, and what the chunks' own gradients need.

  Args:
    chunks: As of `scan`.
    do: [B, T, H, V] bfloat16.
    state: Gradients of the states after each piece, or None for zeros.
    pieces: If given, that many begin with zeros, and there are only the states.

  Returns:
    The gradients of the states before each piece, as those after it; dv, as do; those
    of the states after each chunk, Y, [B, H, N, V, K'] bfloat16; and dZ, as do, if it
    is more than another form of dv: if there is an R.
  """
  both, ends = chunks.R is not None, pieces is not None
  groups = dict(arrive="PA", values=["do"], solve="" if ends else "NOR", leave="DQW")

  def chunk(Y, x, step, product):
    Y_b, do = Y.astype(bf16), x["do"].T
    if not ends:
      step.send(Y=Y_b)
    step.wait("arrive", "values")
    dZ = product([Y_b, do], [x["A"].T, x["P"]]).astype(bf16)
    step.fetch("arrive")

    if not ends:
      step.wait("solve")
      left, right = [dZ], [x["N"]]
      if both:
        left, right = [*left, Y_b, do], [*right, x["R"].T, x["O"]]
      dv = product(left, right).astype(bf16)
      step.fetch("solve")
      step.send(dv=dv, dZ=dZ) if both else step.send(dv=dv)

    step.wait("leave")
    Y = product([dZ, do], [x["W"], x["Q"]], Y * _by_channel(x["D"]))
    step.fetch("leave", "values")
    return Y

  outs = _walk(
    "reverse_ends" if ends else "reverse",
    chunk,
    groups,
    chunks._asdict() | dict(do=do),
    () if ends else ("dv", "Y", "dZ") if both else ("dv", "Y"),
    state,
    pieces or 1,
    interpret,
  )
  return tuple(outs.values())


class _Step(NamedTuple):
  """At a chunk: waits for groups of matrices, fetches the next, sends what was made."""

  wait: Callable
  fetch: Callable
  send: Callable


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
  ins = {name: arrays[name] for names in groups.values() for name in names}
  outs = _outs(arrays, sent, state, pieces, kind == "maps")
  B, N = ins["D"].shape[0], ins["D"].shape[2]
  BP, H, width, depth = outs["last"].shape
  product = hopper.plain_product if interpret else hopper.product

  def program(*refs, x, y, arrived):
    state_ref = None if state is None else refs[0]
    ref = dict(zip((*ins, *outs), refs[state is not None :], strict=True))
    place = hopper.place(N, BP // B)
    columns = pl.ds(place.block * BLOCK, BLOCK)
    number = lambda i: place.first + (place.count - 1 - i if backwards else i)

    def at(name, n):
      """Where the program's part of an array is."""
      if name in "SY":
        return place.batch, place.head, n, columns
      if name in "PNOD":
        return place.batch, place.head, n
      # What is beyond the array's end arrives as 0.
      own = pl.ds(place.block * 0, depth) if name in "QWAR" else columns
      return place.batch, pl.ds(n * CHUNK, CHUNK), place.head, own

    def fetch(i, *names):
      @pl.when(i < place.count)
      def _():
        for group in names:
          for name in groups[group]:
            here = ref[name].at[at(name, number(i))]
            plgpu.copy_gmem_to_smem(here, x[name], arrived[group])

    def wait(*names):
      for group in names:
        plgpu.barrier_wait(arrived[group])

    def send(i, **arrays):
      plgpu.wait_smem_to_gmem(0, wait_read_only=True)
      places = []
      for name, array in arrays.items():
        here = at(name, number(i))
        if name in "SY":
          for c in range(depth // BLOCK):
            part = pl.ds(c * BLOCK, BLOCK)
            y[c, ...] = array[:, c * BLOCK : (c + 1) * BLOCK]
            places.append(ref[name].at[(*here, part)])
        else:
          y.at[len(places)].T[...] = array
          places.append(ref[name].at[here])
      plgpu.commit_smem()
      for c, place in enumerate(places):
        plgpu.copy_smem_to_gmem(y.at[c], place)

    def step(i, S):
      later = functools.partial(fetch, i + 1)
      return chunk(S, x, _Step(wait, later, functools.partial(send, i)), product)

    for group in groups:
      fetch(0, group)
    here = place.row, place.head, columns
    if state is not None:
      S = plgpu.load(state_ref.at[here], layout=hopper.TILE, optimized=False)
    elif kind == "maps":
      row = hopper.iota((BLOCK, depth), 0) + (place.block * BLOCK - (width - depth))
      S = jnp.where(row == hopper.iota((BLOCK, depth), 1), 1.0, 0.0)
    else:
      S = plgpu.layout_cast(jnp.zeros((BLOCK, depth), f32), hopper.TILE)
    S = jax.lax.fori_loop(0, place.count, step, S)
    ref["last"].at[here][...] = S
    plgpu.wait_smem_to_gmem(0)

  run = plgpu.kernel(
    program,
    out_type=tuple(outs.values()),
    grid=(BP, H, width // BLOCK),
    grid_names=("batch", "head", "block"),
    scratch_types=dict(
      # A product wants both its operands in tiles of one width.
      x={name: _buffer(name, depth, ins["A"].shape[-1]) for name in ins},
      y=hopper.tiles((max(len(sent), depth // BLOCK), CHUNK, BLOCK), bf16),
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
  V = values.shape[-1]
  last = (B * pieces, H, V + depth if identity else V, depth)
  last = last if state is None else state.shape
  by_chunk = jax.ShapeDtypeStruct((B, H, N, V, depth), bf16)
  by_token = jax.ShapeDtypeStruct(values.shape, bf16)
  outs = {name: by_chunk if name in "SY" else by_token for name in sent}
  return dict(last=jax.ShapeDtypeStruct(last, f32)) | outs


def _buffer(name, depth, columns):
  """Shared memory for an array's chunk; see `hopper.tiles` for columns."""
  if name == "D":
    return plgpu.SMEM((depth,), f32)
  size = depth if name in "QWAR" else CHUNK if name in "PNO" else BLOCK
  return hopper.tiles((CHUNK, size), bf16, columns)


def _by_channel(ref):
  """A number for each channel, over the columns of a transposed state."""
  return hopper.along_cols(plgpu.load(ref, layout=hopper.COLS), BLOCK)
