r"""Continues a prompt with a trained language model of bytes.

python -m experiments.generate --workdir=runs/gla --prompt="def main("
"""

import json
import pathlib
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from absl import flags

from experiments import build, cli
from jaxseq import data, parallel, sampling, training

PROMPT = flags.DEFINE_string("prompt", "", "What to continue.")
NUM_TOKENS = flags.DEFINE_integer("num_tokens", 400, "Bytes to draw.")
TEMPERATURE = flags.DEFINE_float("temperature", 0.7, "0 takes the most likely byte.")
TOP_K = flags.DEFINE_integer("top_k", None, "Draw from the k most likely bytes.")
TOP_P = flags.DEFINE_float("top_p", None, "Draw from the likeliest bytes up to p.")
SEED = flags.DEFINE_integer("seed", 0, "Of the draws.")


def main() -> int:
  if cli.WORKDIR.value is None:
    raise cli.UsageError("generate needs --workdir=FOLDER of a run")
  workdir = pathlib.Path(cli.WORKDIR.value)
  if not (workdir / "config.json").exists():
    raise cli.UsageError(f"there is no run in {workdir}: it has no config.json")
  c = ml_collections.ConfigDict(json.loads((workdir / "config.json").read_text()))
  prompt = jnp.asarray(data.encode(PROMPT.value.encode()))[None]
  length = prompt.shape[1] + NUM_TOKENS.value
  with cli.usage_errors():
    experiment = build.build(c)
    check(experiment, length)
  checkpoints = training.Checkpointer(workdir / "checkpoints")
  with jax.set_mesh(experiment.mesh), nn.logical_axis_rules(parallel.RULES):
    try:
      restored = checkpoints.restore(experiment.state_shapes)
    except training.DamagedError as error:
      print(f"error: {error}", file=sys.stderr)
      return 1
    if restored is None:
      raise cli.UsageError(f"the run in {workdir} has no checkpoint yet")
    step, state, _ = restored
    with cli.usage_errors():
      tokens = sampling.generate(
        experiment.model.apply,
        {"params": state.eval_params},
        prompt,
        experiment.model.initial_state(1),
        jax.random.key(SEED.value),
        num_tokens=NUM_TOKENS.value,
        temperature=TEMPERATURE.value,
        top_k=TOP_K.value,
        top_p=TOP_P.value,
      )
  print(f"--- {c.mixer} after step {step}, temperature {TEMPERATURE.value:g} ---")
  print(PROMPT.value + data.decode(tokens[0]))
  print("---")
  return 0


def check(experiment, length: int) -> None:
  """Refuses what cannot be continued.

  Raises:
    ValueError: If the model is none of bytes, or its cache holds fewer tokens.
  """
  if not hasattr(experiment.source, "held_out_bytes"):
    raise ValueError("generate needs a language model of bytes")
  for i, name in enumerate(experiment.model.config.pattern):
    mixer = experiment.model.config.mixer(name, i)
    limit = getattr(mixer, "max_length", length)
    if length > limit and getattr(mixer, "window", None) is None:
      raise ValueError(
        f"prompt and num_tokens are {length} tokens; {name} holds max_length = {limit}"
      )


if __name__ == "__main__":
  cli.run(main)
