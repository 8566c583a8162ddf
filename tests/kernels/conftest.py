"""What the tests of kernels share."""

import jax
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from jaxseq import parallel


@pytest.fixture
def eight_devices():
  """A mesh of them; skips where there are fewer."""
  if jax.device_count() < 8:
    pytest.skip("needs eight devices")
  return parallel.make_mesh(parallel.MeshConfig(data=2, fsdp=2, tensor=2))


@pytest.fixture
def lowered_for_hopper():
  """`lowered_for_hopper(run, *args)`: the program's text, without a GPU."""

  def lowered(run, *args):
    device = AbstractDevice("NVIDIA H100 80GB HBM3", None, "cuda")
    mesh = AbstractMesh((1,), ("x",), abstract_device=device)
    unchecked = [jax.export.DisabledSafetyCheck.custom_call("mosaic_gpu_v2")]
    with jax.sharding.use_abstract_mesh(mesh):
      export = jax.export.export(
        jax.jit(run), platforms=["cuda"], disabled_checks=unchecked
      )
      return export(*args).mlir_module()

  return lowered


@pytest.fixture
def compiled_for_tpu():
  """`compiled_for_tpu(topology, run, *args)`: for one device of it, without a TPU.

  Of the arguments only shapes and dtypes matter. Skips where there is no libtpu.
  """
  pytest.importorskip("libtpu")
  from jax.experimental import topologies

  def compiled(topology, run, *args):
    described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    mesh = parallel.make_mesh(parallel.MeshConfig(data=1), described.devices[:1])
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    on_it = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
    with jax.set_mesh(mesh):
      return jax.jit(run).lower(*jax.tree.map(on_it, args)).compile()

  return compiled
