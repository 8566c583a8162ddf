"""What the tests of kernels share."""

import jax
import pytest
from jax.sharding import AbstractDevice, AbstractMesh


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
