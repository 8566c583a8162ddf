"""A killed run, started again, gives the parameters of one that was not, to the bit."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytestmark = pytest.mark.slow

SCRIPT = pathlib.Path(__file__).with_name("toy_run.py")


def start(folder, *options):
  return subprocess.Popen(
    [sys.executable, str(SCRIPT), str(folder), *map(str, options)],
    env=os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(folder):
  """Runs to the end; the step it went on from, and all arrays of the last state."""
  process = start(folder)
  out, error = process.communicate(timeout=120)
  assert process.returncode == 0, error[-2000:]
  with np.load(folder / "final.npz") as arrays:
    return int(out.split()[1]), dict(arrays)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  begun, arrays = finish(tmp_path_factory.mktemp("whole"))
  assert begun == 0 and np.abs(arrays["1"]).max() > 0
  return arrays


def assert_same(got, want):
  assert got.keys() == want.keys()
  for name in want:
    np.testing.assert_array_equal(got[name], want[name])


def unfinished(folder):
  return [f for f in (folder / "checkpoints").iterdir() if "tmp" in f.name]


def test_a_run_killed_in_its_saves_ends_like_one_that_was_not(whole, tmp_path):
  torn = 0
  # From the moment `save` returns to when the files are mostly there.
  for step, delay in [(2, 0.0), (4, 0.005), (6, 0.02), (8, 0.05)]:
    process = start(tmp_path, "--kill_after_save", step, "--delay", delay)
    _, error = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, error[-2000:]
    torn += bool(unfinished(tmp_path))
  assert torn, "no kill fell into a save"
  _, arrays = finish(tmp_path)
  assert_same(arrays, whole)
  assert not unfinished(tmp_path)


def test_a_run_killed_at_a_random_moment_ends_like_one_that_was_not(whole, tmp_path):
  seconds = random.uniform(0.0, 0.5)
  process = start(tmp_path, "--sleep", 0.1)
  process.stdout.readline()  # It has begun.
  time.sleep(seconds)
  process.kill()
  process.communicate()
  assert process.returncode == -signal.SIGKILL, f"ended within {seconds} s"
  _, arrays = finish(tmp_path)
  assert_same(arrays, whole)


def test_a_sigterm_saves_at_once_and_the_run_goes_on_from_there(whole, tmp_path):
  process = start(tmp_path, "--sleep", 0.3)
  process.stdout.readline()
  time.sleep(1.0)
  process.terminate()
  _, error = process.communicate(timeout=60)
  assert process.returncode == 0, error[-2000:]
  begun, arrays = finish(tmp_path)
  assert 0 < begun < 10
  assert_same(arrays, whole)
