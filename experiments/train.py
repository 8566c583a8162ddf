r"""Trains any mixer on any task, from one config. The only training loop.

  python -m experiments.train --config=experiments/configs/lm_bytes.py \
    --config.mixer=gla --workdir=runs/gla

The same line again resumes where the run stopped. SIGTERM saves and exits with 0.
Without --workdir the run lies in runs/CONFIG_MIXER, here runs/lm_bytes_gla.
"""

import itertools
import json
import math
import pathlib
import sys

import flax.linen as nn
import jax
from absl import flags
from ml_collections import config_flags

from experiments import build, cli
from jaxseq import data, parallel, training


def main() -> int:
  c = cli.CONFIG.value
  if c is None:
    raise cli.UsageError("train needs --config=FILE")
  workdir = pathlib.Path(cli.WORKDIR.value or default_workdir(c))
  with cli.usage_errors():
    experiment = build.build(c)
    config = json.loads(c.to_json())
    training.check_config(workdir / "config.json", config, build.FREE)
  checkpoints = training.Checkpointer(workdir / "checkpoints")
  with (
    jax.set_mesh(experiment.mesh),
    nn.logical_axis_rules(parallel.RULES),
    training.GracefulStop() as stop,
  ):
    try:
      train(experiment, checkpoints, workdir, stop)
    except (training.DamagedError, training.NonFiniteError) as error:
      print(f"error: {error}", file=sys.stderr)
      return 1
    finally:
      checkpoints.close()
  return 0


def default_workdir(c) -> str:
  """A folder for the config and its mixer, a pattern of several included."""
  file = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"]))
  return f"runs/{file.stem}_{c.mixer.replace(',', '_')}"


def train(experiment, checkpoints, workdir, stop) -> None:
  """Runs the steps that are left, from the newest good checkpoint or the beginning."""
  c = experiment.config
  rows = parallel.process_rows(experiment.mesh)
  batches = experiment.source.train(c.batch_size, c.sequence_length, c.seed, *rows)
  restored = checkpoints.restore(experiment.state_shapes)
  if restored is None:
    start, state = 0, experiment.fresh_state()
  else:
    start, state, data_state = restored
    batches.set_state(data_state)
  step, evaluate = experiment.step(), experiment.evaluation()
  metrics = training.MetricsWriter(
    workdir,
    total_steps=c.total_steps,
    tokens_per_step=c.batch_size * c.sequence_length,
    start=start,
    bits_per_byte=hasattr(experiment.source, "held_out_bytes"),
  )
  with metrics:
    size = sum(x.size for x in jax.tree.leaves(state.params))
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    metrics.say(f"{c.mixer}: {size:,} parameters, {devices}")
    if start:
      metrics.say(f"resumed after step {start} of {workdir}")
    for n in range(start + 1, c.total_steps + 1):
      batch = parallel.global_batch(experiment.mesh, next(batches))
      state, measured = step(state, batch)
      # Several processes must stop after the same step, and asking takes time.
      asked = (n % c.log_every == 0 or jax.process_count() == 1) and stop.agreed()
      last = n == c.total_steps or asked
      if n % c.log_every == 0 or last:
        metrics.train(n, measured)
        training.check_finite(measured, c.max_skipped)
      if n % c.eval_every == 0 or n == c.total_steps:
        metrics.evaluation(n, held_out(experiment, evaluate, state, rows))
      if n % c.checkpoint_every == 0 or last:
        checkpoints.save(n, state, batches.get_state())
      if asked:
        metrics.say(f"stopped after step {n}; the same command goes on from there")
        return
    compare(experiment, metrics)
  metrics.say(f"checkpoints, metrics.jsonl, curves.png and tensorboard: {workdir}")


def held_out(experiment, evaluate, state, rows) -> dict[str, float]:
  """Means over the held-out batches, or the first of them that the config asks for."""
  c = experiment.config
  batches = experiment.source.evaluation(c.batch_size, c.sequence_length, *rows)
  return training.mean_metrics(
    evaluate(state, parallel.global_batch(experiment.mesh, batch))
    for batch in itertools.islice(batches, c.eval_batches or None)
  )


def compare(experiment, metrics) -> None:
  """Prints what general compressors make of the held-out bytes beside the model."""
  c, source = experiment.config, experiment.source
  lines = training.read_metrics(metrics.path)
  measured = [m for m in lines if m["split"] == "held_out"]
  if not hasattr(source, "held_out_bytes") or not measured:
    return
  text = source.held_out_bytes()
  if c.eval_batches:
    text = text[: c.eval_batches * c.batch_size * c.sequence_length]
  results = {"this model": measured[-1]["loss"] / math.log(2)}
  results |= data.compressed_bits_per_byte(text)
  metrics.say(f"bits per byte on the same {len(text):,} held-out bytes:")
  for name, bits in results.items():
    metrics.say(f"  {name:<12}{bits:.3f}")


if __name__ == "__main__":
  cli.run(main)
