r"""Compiles a train step for a TPU pod that is not here, and reads off what it needs.

  python -m experiments.compile_pod --config=experiments/configs/lm_1p3b.py \
    --topology=v5e:16x16 --config.batch_size=256

Needs libtpu (the `tpu` or `test` extra), which compiles on any Linux host. Nothing
runs: memory is what the compiler allots on each chip; collectives are counted in its
program.
"""

import collections
import dataclasses
import os
import re
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import flags
from jax.experimental import topologies

from experiments import build, cli
from jaxseq import parallel

TOPOLOGY = flags.DEFINE_string("topology", "v5e:16x16", "Such as v5e:4x4, v5p:8x8x16.")

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all")
COLLECTIVES += ("collective-permute",)

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Report:
  """What the compiler says of a step on one chip.

  Attributes:
    num_devices: Chips in the topology (v4 and 7x: two devices a chip).
    compile_seconds: Of the compiler alone.
    arguments_gib: State and batch.
    temporary_gib: Activations and buffers, at the peak.
    collectives: How many of each kind stand in the program; one in a loop counts once.
    custom_calls: Names of the kernels in the program.
  """

  num_devices: int
  compile_seconds: float
  arguments_gib: float
  temporary_gib: float
  collectives: dict[str, int]
  custom_calls: tuple[str, ...]


def main() -> None:
  if cli.CONFIG.value is None:
    raise cli.UsageError("compile_pod needs --config=FILE")
  os.environ.update(cli.NO_TPU)
  jax.config.update("jax_platforms", "cpu")
  with cli.usage_errors():
    report = compile_step(cli.CONFIG.value, TOPOLOGY.value)
  print(f"{TOPOLOGY.value}: {report.num_devices} devices")
  print(f"compile time       {report.compile_seconds:.0f} s")
  print(f"HBM, state         {report.arguments_gib:.2f} GiB a device")
  print(f"HBM, temporary     {report.temporary_gib:.2f} GiB a device")
  for name, count in report.collectives.items():
    print(f"{name:<18} {count}")
  print(f"kernels            {', '.join(report.custom_calls) or 'none'}")


def compile_step(c, topology: str) -> Report:
  """Compiles the train step that `experiments.train` would run.

  Raises:
    ValueError: If the config is wrong or the topology unknown.
  """
  try:
    devices = topologies.get_topology_desc(
      platform="tpu", topology_name=topology
    ).devices
  except Exception as error:  # libtpu's own kinds.
    raise ValueError(f"no TPU topology {topology!r}: {error}") from error
  experiment = build.build(c, devices)
  batch = batch_shapes(c, experiment.mesh)
  with jax.set_mesh(experiment.mesh), nn.logical_axis_rules(parallel.RULES):
    lowered = experiment.step().lower(experiment.state_shapes, batch)
    start = time.time()
    compiled = lowered.compile()
    seconds = time.time() - start
  memory = compiled.memory_analysis()
  program = compiled.as_text()
  counts = collections.Counter(re.findall(r" (\S+?)(?:-start)?\(", program))
  kernels = re.findall(r"%([^\s.]+)\S* = .*\"tpu_custom_call\"", program)
  return Report(
    num_devices=len(devices),
    compile_seconds=seconds,
    arguments_gib=memory.argument_size_in_bytes / GIB,
    temporary_gib=memory.temp_size_in_bytes / GIB,
    collectives={name: counts[name] for name in COLLECTIVES if counts[name]},
    custom_calls=tuple(sorted(set(kernels))),
  )


def batch_shapes(c, mesh) -> dict[str, jax.ShapeDtypeStruct]:
  """A batch of a language model, where it lies on the mesh."""
  shape = (c.batch_size, c.sequence_length)
  kinds = dict(
    inputs=jnp.int32, targets=jnp.int32, weights=jnp.float32, segment_ids=jnp.int32
  )
  place = parallel.batch_sharding(mesh, 2)
  return {
    name: jax.ShapeDtypeStruct(shape, kind, sharding=place)
    for name, kind in kinds.items()
  }


if __name__ == "__main__":
  cli.run(main)
