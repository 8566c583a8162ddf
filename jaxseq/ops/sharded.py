"""The one place that spreads kernels over devices.

The compiler cannot partition a Pallas kernel. So each call is wrapped in `shard_map`
over the axes along which the kernel's rows are independent: batch and heads.
"""

import math
from collections.abc import Callable, Sequence

import jax
from jax.sharding import PartitionSpec

__all__ = ["over_batch_and_heads"]

# Which axes of the mesh cut an axis of an array, by its letter; see `jaxseq.typing`. D
# is cut like H: a kernel over channels takes any part of them.
MESH_AXES = {"B": ("data", "fsdp"), "H": ("tensor",), "D": ("tensor",)}


def over_batch_and_heads(
  run: Callable, args: Sequence, in_axes: Sequence[str], out_axes: str | Sequence[str]
):
  """Calls `run(*args)` on each device's part of batch and heads.

  Without a mesh in context, or with one that has none of these axes, it is a plain
  call. An axis that the mesh does not divide in every array is left whole on each
  device.

  Args:
    run: The kernel.
    args: Its arrays; None is passed on.
    in_axes: The letters of each array's axes, such as "BTHK".
    out_axes: Likewise of the output, or of each output of a tuple.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return run(*args)
  cut = {}
  for letter, names in MESH_AXES.items():
    names = tuple(n for n in names if n in mesh.shape and n not in mesh.manual_axes)
    parts = math.prod(mesh.shape[n] for n in names)
    sizes = [
      x.shape[axes.index(letter)]
      for x, axes in zip(args, in_axes)
      if x is not None and letter in axes
    ]
    if parts > 1 and sizes and not any(size % parts for size in sizes):
      cut[letter] = names
  if not cut:
    return run(*args)
  spec = lambda axes: PartitionSpec(*(cut.get(letter) for letter in axes))
  out = spec(out_axes) if isinstance(out_axes, str) else tuple(map(spec, out_axes))
  given = [i for i, x in enumerate(args) if x is not None]

  def part(*arrays):
    full = [None] * len(args)
    for i, x in zip(given, arrays):
      full[i] = x
    return run(*full)

  return jax.shard_map(
    part,
    mesh=mesh,
    in_specs=tuple(spec(in_axes[i]) for i in given),
    out_specs=out,
    check_vma=False,
  )(*(args[i] for i in given))
