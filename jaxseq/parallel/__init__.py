"""Many devices: the mesh and the layout of parameters and batches on it."""

from jaxseq.parallel.mesh import (
  AXES,
  RULES,
  MeshConfig,
  batch_sharding,
  global_batch,
  logical_axes,
  make_mesh,
  process_rows,
  shardings,
)

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
