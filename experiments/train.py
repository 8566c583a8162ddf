r"""Trains any mixer on any task, from one config. The only training loop.

  python -m experiments.train --config=experiments/configs/lm_bytes.py \
    --config.mixer=gla --workdir=runs/gla

The same line again resumes where the run stopped. SIGTERM saves and exits with 0.
"""

import itertools
import json
import os

import flax.linen as nn
import jax

from experiments import build, cli
from jaxseq import parallel, training


def main() -> None:
  c, workdir = cli.CONFIG.value, cli.WORKDIR.value
  if c is None or workdir is None:
    raise cli.UsageError("train needs --config=FILE and --workdir=FOLDER")
  with cli.usage_errors():
    experiment = build.build(c)
    checkpoints = training.Checkpointer(
      os.path.join(workdir, "checkpoints"), json.loads(c.to_json()), free=build.FREE
    )
  with (
    jax.set_mesh(experiment.mesh),
    nn.logical_axis_rules(parallel.RULES),
    training.GracefulStop() as stop,
  ):
    train(experiment, checkpoints, workdir, stop)
  checkpoints.close()


def train(experiment, checkpoints, workdir, stop) -> None:
  """Runs the steps that are left, from the newest good checkpoint or the beginning."""
  c = experiment.config
  rows = parallel.process_rows(experiment.mesh)
  batches = experiment.source.train(c.batch_size, c.sequence_length, c.seed, *rows)
  restored = checkpoints.restore(experiment.state_shapes)
  if restored is None:
    state, start = experiment.fresh_state(), 0
  else:
    state, data_state, start = restored
    batches.set_state(data_state)
    print(f"resumed from step {start} of {workdir}")
  step, evaluate = experiment.step(), experiment.evaluation()
  tokens = c.batch_size * c.sequence_length
  with training.MetricsWriter(workdir, c.total_steps, tokens, start) as metrics:
    for n in range(start + 1, c.total_steps + 1):
      batch = parallel.global_batch(experiment.mesh, next(batches))
      state, measured = step(state, batch)
      last = n == c.total_steps or stop.requested
      if n % c.log_every == 0 or last:
        metrics.train(n, measured)
        training.check_finite(measured, c.max_skipped)
      if n % c.eval_every == 0 or n == c.total_steps:
        metrics.evaluation(n, held_out(experiment, evaluate, state, rows))
      if n % c.checkpoint_every == 0 or last:
        checkpoints.save(state, batches.get_state(), n)
      if stop.requested:
        break


def held_out(experiment, evaluate, state, rows) -> dict[str, float]:
  """Means over the held-out batches, or the first of them that the config asks for."""
  c = experiment.config
  batches = experiment.source.evaluation(c.batch_size, c.sequence_length, *rows)
  return training.mean_metrics(
    evaluate(state, parallel.global_batch(experiment.mesh, batch))
    for batch in itertools.islice(batches, c.eval_batches or None)
  )


if __name__ == "__main__":
  cli.run(main)
