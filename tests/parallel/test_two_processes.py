"""Two processes on this machine train one step together, through jax.distributed."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.slow

STEP = """
import json, sys
import flax.linen as nn
import jax
address, count, index = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if count > 1:
  jax.distributed.initialize(address, count, index)
from experiments import build
from experiments.configs import lm_bytes
from jaxseq import parallel
c = lm_bytes.get_config()
c.data.path = "jaxseq"
c.mixer, c.batch_size, c.sequence_length = "gated_delta_net,attention", 8, 32
c.model.update(dict(features=32, num_layers=2))
c.mesh.update(dict(data=2, fsdp=2))
e = build.build(c)
with jax.set_mesh(e.mesh), nn.logical_axis_rules(parallel.RULES):
  rows = parallel.process_rows(e.mesh)
  batches = e.source.train(c.batch_size, c.sequence_length, 0, *rows)
  state, step, losses = e.fresh_state(), e.step(), []
  for _ in range(2):
    state, metrics = step(state, parallel.global_batch(e.mesh, next(batches)))
    losses.append([float(metrics[k]) for k in ("loss", "grad_norm", "param_norm")])
print("RESULT", json.dumps(dict(rows=rows, losses=losses)))
"""


def launch(count, devices):
  """The printed results of `count` processes of `devices` CPU devices each."""
  with socket.socket() as s:
    s.bind(("localhost", 0))
    address = f"localhost:{s.getsockname()[1]}"
  flags = f"--xla_force_host_platform_device_count={devices} "
  flags += "--xla_backend_optimization_level=0"
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", STEP, address, str(count), str(i)],
      cwd=ROOT,
      env=os.environ | {"XLA_FLAGS": flags},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(count)
  ]
  results = []
  for process in processes:
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error[-3000:]
    line = next(x for x in out.splitlines() if x.startswith("RESULT "))
    results.append(json.loads(line.removeprefix("RESULT ")))
  return results


def test_two_processes_agree_with_each_other_and_with_one():
  (alone,) = launch(1, 4)
  both = launch(2, 2)
  assert [r["rows"] for r in both] == [[0, 2], [1, 2]]
  assert both[0]["losses"] == both[1]["losses"]
  np.testing.assert_allclose(both[0]["losses"], alone["losses"], rtol=1e-4)
