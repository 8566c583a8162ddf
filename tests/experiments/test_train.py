"""The training script as a user runs it: from a shell, killed, wrongly called."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxseq import training

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def command(script, *arguments):
  return [sys.executable, "-m", f"experiments.{script}", *map(str, arguments)]


CACHE = tempfile.TemporaryDirectory()  # Each run would compile the same step again.


def environment():
  return os.environ | {
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
    "PYTHONPATH": str(ROOT),
    "PYTHONUNBUFFERED": "1",
    "JAX_COMPILATION_CACHE_DIR": CACHE.name,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
  }


def run(script, *arguments, cwd=ROOT):
  return subprocess.run(
    command(script, *arguments),
    cwd=cwd,
    env=environment(),
    capture_output=True,
    text=True,
  )


def tiny(workdir, text, **fields):
  """A run of seconds: 24 steps, a checkpoint every 4."""
  fields = {
    "mixer": "gated_delta_net,attention",
    "total_steps": 24,
    "batch_size": 4,
    "sequence_length": 32,
    "model.features": 32,
    "model.num_layers": 2,
    "data.path": text,
    "log_every": 2,
    "eval_every": 12,
    "eval_batches": 1,
    "checkpoint_every": 4,
  } | fields
  return [
    "--config=experiments/configs/lm_bytes.py",
    f"--workdir={workdir}",
    *(f"--config.{name}={value}" for name, value in fields.items()),
  ]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
  folder = tmp_path_factory.mktemp("text")
  words = random.Random(0).choices(["state", "space", "gate", "delta"], k=4000)
  for i in range(30):
    (folder / f"{i}.txt").write_text(" ".join(words[100 * i : 100 * i + 100]))
  return folder


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory):
  """The uninterrupted run."""
  workdir = tmp_path_factory.mktemp("whole")
  done = run("train", *tiny(workdir, text))
  assert done.returncode == 0, done.stderr
  return workdir, done.stdout


def arrays(workdir, step=24):
  folder = workdir / "checkpoints" / str(step) / "state"
  return ocp.StandardCheckpointer().restore(folder)


def assert_ends_like(workdir, whole):
  for a, b in zip(
    jax.tree.leaves(arrays(workdir)), jax.tree.leaves(arrays(whole)), strict=True
  ):
    np.testing.assert_array_equal(a, b)
  measured = lambda folder: [
    {k: v for k, v in m.items() if k != "tokens_per_second"}
    for m in training.read_metrics(folder / "metrics.jsonl")
  ]
  assert measured(workdir) == measured(whole)


def test_a_run_leaves_what_it_says(whole):
  workdir, shown = whole
  for name in ("metrics.jsonl", "curves.png", "config.json", "checkpoints/24"):
    assert (workdir / name).exists()
  for words in ("step 24/24", "ETA", "held-out", "gzip -9", "xz -9", str(workdir)):
    assert words in shown


def logged(workdir):
  lines = training.read_metrics(workdir / "metrics.jsonl")
  return max((m["step"] for m in lines), default=0)


def saving(workdir):
  return any("tmp" in f.name for f in (workdir / "checkpoints").glob("*"))


def killed(arguments, when, number):
  """Starts a run and sends it a signal as soon as `when()` holds."""
  process = subprocess.Popen(
    command("train", *arguments),
    cwd=ROOT,
    env=environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  while not when() and process.poll() is None:
    time.sleep(0.0005)
  process.send_signal(number)
  out, error = process.communicate()
  return process.returncode, out, error


def test_a_run_killed_at_any_moment_ends_like_one_that_was_not(whole, text, tmp_path):
  points = random.Random(time.time()).sample(range(2, 22, 2), 2)
  moments = [lambda p=p: logged(tmp_path) >= p for p in sorted(points)]
  moments.insert(1, lambda: saving(tmp_path))
  codes = [killed(tiny(tmp_path, text), m, signal.SIGKILL)[0] for m in moments]
  assert -signal.SIGKILL in codes, codes
  done = run("train", *tiny(tmp_path, text))
  assert done.returncode == 0, f"killed at {points}: {done.stderr}"
  assert_ends_like(tmp_path, whole[0])


def test_a_sigterm_saves_and_exits_with_0_and_the_same_line_resumes(
  whole, text, tmp_path
):
  code, shown, error = killed(
    tiny(tmp_path, text), lambda: logged(tmp_path) >= 6, signal.SIGTERM
  )
  assert code == 0, error
  assert "stopped after step" in shown
  done = run("train", *tiny(tmp_path, text))
  assert "resumed after step" in done.stdout
  folder = tmp_path / "checkpoints"
  assert (folder / "24").exists(), done.stderr
  for a, b in zip(
    jax.tree.leaves(arrays(tmp_path)), jax.tree.leaves(arrays(whole[0])), strict=True
  ):
    np.testing.assert_array_equal(a, b)


def test_a_finished_run_generates(whole):
  options = [f"--workdir={whole[0]}", "--prompt=state", "--num_tokens=20"]
  done = run("generate", *options, "--temperature=0")
  assert done.returncode == 0, done.stderr
  assert "state" in done.stdout and "after step 24" in done.stdout
  done = run("generate", *options, "--num_tokens=5000")
  assert done.returncode == 2 and "max_length = 2048" in done.stderr


def test_without_a_workdir_the_run_is_named_after_config_and_mixer(text, tmp_path):
  short = {"total_steps": 2, "optimizer.warmup_steps": 1, "mixer": "gla"}
  config, _, *fields = tiny("", text, **short)
  config = config.replace("=", f"={ROOT}/")
  done = run("train", config, *fields, cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  assert (tmp_path / "runs" / "lm_bytes_gla" / "checkpoints" / "2").exists()


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"mixer": "gated_deltanet"}, "did you mean gated_delta_net"),
    ({"model.featurs": 8}, "did you mean model.features"),
    ({"total_steps": "many"}, "invalid literal for int"),
    ({"model.num_heads": 5}, "needs num_heads that divide"),
    ({"data.path": "/nowhere"}, "/nowhere"),
    ({"batch_size": 3, "accumulate_steps": 2}, "batch_size must be a multiple"),
    ({"mesh.data": 3}, "does not fit 1 devices"),
    ({"optimizer.name": "sgd"}, "optimizer needs name"),
    ({"model.max_length": 16}, "max_length of at least the 32 tokens"),
  ],
)
def test_a_wrong_field_is_one_line_and_exit_code_2(changes, words, text, tmp_path):
  done = run("train", *tiny(tmp_path / "run", text, **changes))
  assert done.returncode == 2, done.stderr
  assert len(done.stderr.strip().splitlines()) == 1, done.stderr
  assert words in done.stderr
  assert not (tmp_path / "run").exists()


def test_a_config_that_does_not_match_the_run_is_refused(whole, text):
  done = run("train", *tiny(whole[0], text, seed=5))
  assert done.returncode == 2 and "seed: 0 -> 5" in done.stderr
  assert arrays(whole[0]) is not None
