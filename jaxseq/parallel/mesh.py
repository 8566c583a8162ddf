"""One mesh with named axes, and the rules that lay parameters and batches on it.

    data      copies of the model, a part of the batch each
    fsdp      likewise, the parameters sharded among them
    sequence  parts of the time axis of activations
    tensor    parts of heads, of inner widths and of the vocabulary

Modules name the axes of their parameters; `RULES` maps the names to the mesh.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

__all__ = [
  "AXES",
  "RULES",
  "MeshConfig",
  "batch_sharding",
  "global_batch",
  "logical_axes",
  "make_mesh",
  "process_rows",
  "shardings",
]

AXES = ("data", "fsdp", "sequence", "tensor")

RULES = (
  ("batch", ("data", "fsdp")),
  ("time", "sequence"),
  ("embed", "fsdp"),
  ("heads", "tensor"),
  ("mlp", "tensor"),
  ("vocab", "tensor"),
  ("layers", None),
)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices along each axis. -1, for one axis at most, takes those that are left."""

  data: int = -1
  fsdp: int = 1
  sequence: int = 1
  tensor: int = 1

  def __post_init__(self):
    sizes = dataclasses.astuple(self)
    if any(n < 1 and n != -1 for n in sizes) or sizes.count(-1) > 1:
      raise ValueError(
        f"mesh axes {AXES} need sizes >= 1, one of them at most -1; got {sizes}"
      )

  def shape(self, num_devices: int) -> tuple[int, ...]:
    """Sizes of `AXES` on that many devices.

    Raises:
      ValueError: If they do not multiply to the number of devices.
    """
    sizes = list(dataclasses.astuple(self))
    known = math.prod(n for n in sizes if n != -1)
    if -1 in sizes:
      sizes[sizes.index(-1)] = num_devices // known
    if math.prod(sizes) != num_devices:
      raise ValueError(
        f"mesh {dict(zip(AXES, dataclasses.astuple(self)))} does not fit "
        f"{num_devices} devices"
      )
    return tuple(sizes)


def make_mesh(config: MeshConfig, devices=None) -> Mesh:
  """The mesh over all devices, or those given."""
  devices = jax.devices() if devices is None else devices
  auto = (jax.sharding.AxisType.Auto,) * len(AXES)
  return jax.make_mesh(
    config.shape(len(devices)), AXES, axis_types=auto, devices=devices
  )


def logical_axes(boxed):
  """The names of each parameter's axes, from what `module.init` returned."""
  return nn.get_partition_spec(boxed)


def shardings(mesh: Mesh, boxed):
  """Where each parameter lies, from what `module.init` returned (or its shapes).

  Raises:
    ValueError: If an axis of the mesh does not divide the parameter's.
  """
  specs = nn.logical_to_mesh(logical_axes(boxed), RULES)

  def one(path, x, spec):
    for size, names in zip(x.shape, spec):
      names = (names,) if isinstance(names, str) else names or ()
      parts = math.prod(mesh.shape[name] for name in names)
      if size % parts:
        raise ValueError(
          f"mesh axis {'x'.join(names)} of size {parts} must divide the parameter "
          f"{jax.tree_util.keystr(path, simple=True, separator='/')} of shape {x.shape}"
        )
    return NamedSharding(mesh, spec)

  return jax.tree_util.tree_map_with_path(one, nn.unbox(boxed), specs)


def batch_sharding(mesh: Mesh, ndim: int) -> NamedSharding:
  """Rows over data and fsdp, and time, where there is a second axis, over sequence."""
  time = ("sequence",) if ndim > 1 else ()
  return NamedSharding(mesh, PartitionSpec(("data", "fsdp"), *time))


def process_rows(mesh: Mesh) -> tuple[int, int]:
  """Which part of each batch this process feeds: its number, and how many there are.

  Processes that differ only in their place on the sequence or tensor axis feed the
  same rows.
  """
  rows = mesh.shape["data"] * mesh.shape["fsdp"]
  devices = mesh.devices.reshape(rows, -1)
  mine = [
    r
    for r in range(rows)
    if any(d.process_index == jax.process_index() for d in devices[r])
  ]
  count = rows // len(mine)
  if mine != list(range(mine[0], mine[0] + len(mine))) or mine[0] % len(mine):
    raise ValueError(
      f"each process must hold neighbouring rows of the batch; "
      f"process {jax.process_index()} of mesh {dict(mesh.shape)} holds {mine} of {rows}"
    )
  return mine[0] // len(mine), count


def global_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
  """Puts the rows of this process on its devices, as parts of the whole batch."""
  return {
    name: jax.make_array_from_process_local_data(batch_sharding(mesh, x.ndim), x)
    for name, x in batch.items()
  }
