r"""A byte-level language model of about 125M parameters: three Gated DeltaNet layers to
one of attention.

  python -m experiments.train --config=experiments/configs/lm_125m.py \
    --config.data.path=FOLDER --workdir=runs/lm_125m
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  c = ml_collections.ConfigDict(dict(seed=0, total_steps=20_000))
  c.task = "language_model"
  c.mixer = "gated_delta_net,gated_delta_net,gated_delta_net,attention"
  c.batch_size = 64  # Sequences over all devices; data x fsdp must divide it.
  c.sequence_length = 2048  # Tokens.
  c.data = dict(name="bytes", path="")
  c.model = dict(features=768, num_layers=16, num_heads=12, mlp="swiglu", remat="dots")
  c.model.update(dict(dtype="auto", max_length=2048))
  c.mixer_options = dict()
  c.optimizer = dict(name="adamw", learning_rate=6e-4, schedule="cosine")
  c.optimizer.update(dict(warmup_steps=1000, weight_decay=0.1, clip_norm=1.0))
  c.accumulate_steps = 1  # Microbatches in a step.
  c.ema_decay = 0.0  # 0 keeps no average of the parameters.
  c.mesh = dict(data=1, fsdp=-1, sequence=1, tensor=1)  # -1: the devices left.
  c.log_every = 10
  c.eval_every = 500
  c.eval_batches = 50  # Held-out batches looked at; 0 is all of them.
  c.checkpoint_every = 500
  c.max_skipped = 10  # Non-finite steps in a row that end the run.
  return c
