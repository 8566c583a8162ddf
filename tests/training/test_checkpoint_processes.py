"""Two processes restore together, though only one can see that a part is damaged."""

import os
import socket
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
address, index, folder, task = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
jax.distributed.initialize(address, 2, index)
from jaxseq import parallel, training

mesh = parallel.make_mesh(parallel.MeshConfig(data=1, fsdp=4))
optimizer = training.make_optimizer(training.OptimizerConfig(total_steps=10))

def make(seed):
  keys = jax.random.split(jax.random.key(seed))
  params = {"kernel": jax.random.normal(keys[0], (64, 32))}
  return training.create(params, optimizer, keys[1], ema=False)

def place(leaf):
  return NamedSharding(mesh, PartitionSpec(*["fsdp"] if leaf.ndim == 2 else []))

with jax.set_mesh(mesh):
  shapes = jax.eval_shape(make, 0)
  places = jax.tree.map(place, shapes)
  state = jax.jit(make, static_argnums=0, out_shardings=places)
  checkpoints = training.Checkpointer(folder)
  if task == "save":
    for n in (1, 2):
      checkpoints.save(n, state(n), {"next_index": n})
  else:
    target = jax.tree.map(
      lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p), shapes, places
    )
    step, restored, data = checkpoints.restore(target)
    same = bool(jnp.all(restored.params["kernel"] == state(step).params["kernel"]))
    print("RESULT", step, data["next_index"], same, checkpoints.damaged)
    checkpoints.save(2, state(2), {"next_index": 2})
  checkpoints.close()
"""


def launch(folder, task):
  """What each of the two processes printed as its result."""
  with socket.socket() as s:
    s.bind(("localhost", 0))
    address = f"localhost:{s.getsockname()[1]}"
  flags = "--xla_force_host_platform_device_count=2 "
  flags += "--xla_backend_optimization_level=0"
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", SCRIPT, address, str(i), str(folder), task],
      env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  ended = [p.communicate(timeout=240) for p in processes]
  for process, (_, error) in zip(processes, ended):
    assert process.returncode == 0, error[-3000:]
  return [x for out, _ in ended for x in out.splitlines() if x.startswith("RESULT")]


def test_damage_in_the_part_of_one_process_is_agreed_on(tmp_path):
  launch(tmp_path, "save")
  parts = list((tmp_path / "2" / "state" / "ocdbt.process_1" / "d").iterdir())
  assert parts
  for file in parts:
    file.write_bytes(b"")
  assert launch(tmp_path, "restore") == ["RESULT 1 1 True [2]"] * 2
  assert len(list(tmp_path.glob("damaged_2_*"))) == 1
  assert launch(tmp_path, "restore") == ["RESULT 2 2 True []"] * 2
