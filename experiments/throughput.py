r"""Times the train step of a config on the devices at hand.

  python -m experiments.throughput --config=experiments/configs/lm_125m.py

Prints the median step time with its spread, tokens a second, and the share of the
devices' peak that the model's arithmetic makes up (MFU). That arithmetic is 6
operations a token and parameter in a matrix product (forward and backward) and, for
each softmax attention, 6 T D for the causal half of its scores and sums; what the
recurrences and the recomputation of `remat` do comes on top and is not counted.
"""

import math
import statistics
import time

import flax.linen as nn
import jax
import numpy as np
from absl import flags

from experiments import build, cli
from jaxseq import parallel

STEPS = flags.DEFINE_integer("steps", 30, "Timed steps, after 3 to warm up.")

# Dense bfloat16 operations a second of one device, from the makers' datasheets.
PEAK = {
  "NVIDIA A100": 312e12,
  "NVIDIA H100": 989e12,
  "NVIDIA H200": 989e12,
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5": 459e12,
  "TPU v6 lite": 918e12,
}


def main() -> None:
  c = cli.CONFIG.value
  if c is None:
    raise cli.UsageError("throughput needs --config=FILE")
  with cli.usage_errors():
    experiment = build.build(c)
  with jax.set_mesh(experiment.mesh), nn.logical_axis_rules(parallel.RULES):
    seconds = step_seconds(experiment, STEPS.value)
  report(experiment, seconds)


def step_seconds(experiment, steps: int) -> list[float]:
  """Time of each step, on one batch of the training data."""
  c = experiment.config
  batches = experiment.source.train(
    c.batch_size, c.sequence_length, c.seed, *parallel.process_rows(experiment.mesh)
  )
  batch = parallel.global_batch(experiment.mesh, next(batches))
  state = experiment.fresh_state()
  step = experiment.step().lower(state, batch).compile()
  memory = step.memory_analysis()
  if memory is not None:
    total = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    print(f"memory             {total / 2**30:.2f} GiB a device")
  seconds = []
  for _ in range(3 + steps):
    start = time.perf_counter()
    state, metrics = step(state, batch)
    jax.block_until_ready(metrics)
    seconds.append(time.perf_counter() - start)
  return seconds[3:]


def operations_per_token(experiment) -> tuple[int, float]:
  """Number of parameters, and operations a token of forward and backward pass."""
  c = experiment.config
  leaves = jax.tree_util.tree_flatten_with_path(experiment.state_shapes.params)[0]
  size = sum(math.prod(x.shape) for _, x in leaves)
  # The embedding is looked up, not multiplied, unless it is the output matrix too.
  tied = c.model.get("tie_embeddings", True)
  looked_up = 0 if tied else c.model.features * experiment.source.vocab_size
  pattern = experiment.model.config.pattern
  share = pattern.count("attention") / len(pattern)
  scores = 6 * share * c.model.num_layers * c.sequence_length * c.model.features
  return size, 6 * (size - looked_up) + scores


def report(experiment, seconds: list[float]) -> None:
  c = experiment.config
  kind = jax.devices()[0].device_kind
  median = statistics.median(seconds)
  low, high = np.percentile(seconds, [10, 90])
  tokens = c.batch_size * c.sequence_length
  size, operations = operations_per_token(experiment)
  print(f"device             {jax.device_count()} x {kind}, jax {jax.__version__}")
  print(f"mixer              {c.mixer}")
  print(f"parameters         {size / 1e6:.1f} M in {experiment.model.config.dtype}")
  print(f"batch              {c.batch_size} x {c.sequence_length} tokens")
  spread = f"{low * 1e3:.1f} to {high * 1e3:.1f}"
  print(f"step time          {median * 1e3:.1f} ms (10% to 90%: {spread})")
  print(f"tokens a second    {tokens / median:,.0f}")
  peak = next((p for name, p in PEAK.items() if kind.startswith(name)), None)
  if peak is not None:
    mfu = operations * tokens / median / (peak * jax.device_count())
    print(f"MFU                {mfu:.1%} of {peak / 1e12:.0f} TFLOP/s a device")


if __name__ == "__main__":
  cli.run(main)
