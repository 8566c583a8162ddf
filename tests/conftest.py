"""Eight host devices, and libtpu as a compiler only; both must precede JAX."""

import gc
import itertools
import os
import pathlib

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "")
  + " --xla_force_host_platform_device_count=8"
  # Compiling is most of what the tests do; the other core has tests of its own.
  + " --xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
  # Compiles in half the time. What it compiles runs slower, scans over large arrays
  # most of all; the notebooks and the runs of experiments keep XLA's default.
  + " --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters=true"
)
for name, value in dict(
  TPU_SKIP_MDS_QUERY="1",
  TPU_ACCELERATOR_TYPE="v5litepod-4",
  TPU_WORKER_HOSTNAMES="localhost",
  TPU_WORKER_ID="0",
  ALLOW_MULTIPLE_LIBTPU_LOAD="1",
  TPU_MIN_LOG_LEVEL="3",
  TPU_STDERR_LOG_LEVEL="3",
).items():
  os.environ.setdefault(name, value)


gc.set_threshold(100_000, 20, 100)  # Tracing makes much that is no garbage.

# Of all mixers and all ops, the fast tests try these.
FAST_MEMBERS = {
  "attention",
  "gla",
  "lstm",
  "linear_attention",
  "scalar_decay",
  "gated_delta_rule",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
  for item in items:
    params = item.callspec.params if hasattr(item, "callspec") else {}
    suite = item.module.__name__.rpartition(".")[2]
    of = {"test_contract": "name", "test_chunks": "op"}.get(suite)
    member = params.get(of)
    room = item.path.parts[-3]
    if member is None and room in ("modules", "ops"):  # A file of its own.
      member = item.path.stem.removeprefix("test_")
    if member and member not in FAST_MEMBERS:
      item.add_marker(pytest.mark.slow)
    if "slow" not in item.keywords:
      item.add_marker("fast")
    # One worker makes all checks of a mixer, of an op and of a file: they share what is
    # compiled. The notebooks share nothing.
    if item.path.parent.name != "notebooks":
      item.add_marker(pytest.mark.xdist_group(f"{suite} {params.get(of, '')}"))


COUNTER = itertools.count()


def pytest_runtest_teardown():
  """Drops compiled programs before they take all the maps of memory that Linux allows.

  A process has 65,530, XLA's CPU programs take dozens each, and its compiler crashes
  when there are no more.
  """
  maps = pathlib.Path("/proc/self/maps")
  tests_run = next(COUNTER)
  if tests_run % 16 == 0 and maps.exists() and maps.read_bytes().count(b"\n") > 30_000:
    import jax  # Not before the flags above are set.

    jax.clear_caches()
