r"""A byte-level language model of a text of TFDS, read without TensorFlow.

  python -m experiments.train --config=experiments/configs/lm_tfds.py \
    --config.data.dataset=DATASET --config.data.data_dir=FOLDER --workdir=runs/lm_tfds

The dataset must have been prepared in FOLDER as array_record files.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  c = ml_collections.ConfigDict(dict(seed=0, total_steps=2000))
  c.task = "language_model"
  c.mixer = "gated_delta_net,gated_delta_net,gated_delta_net,attention"
  c.batch_size = 32  # Sequences over all devices; data x fsdp must divide it.
  c.sequence_length = 512  # Tokens.
  c.data = dict(name="tfds", dataset="lm1b", data_dir="", feature="text")
  c.data.update(dict(train_split="train", evaluation_split="test"))
  c.data.limit_bytes = 1 << 20  # Held-out bytes that are evaluated; 0 is all.
  c.model = dict(features=256, num_layers=8, num_heads=4, mlp="swiglu", remat="none")
  c.model.update(dict(dtype="auto", max_length=2048))
  c.mixer_options = dict()
  c.optimizer = dict(name="adamw", learning_rate=1e-3, schedule="cosine")
  c.optimizer.update(dict(warmup_steps=100, weight_decay=0.1, clip_norm=1.0))
  c.accumulate_steps = 1  # Microbatches in a step.
  c.ema_decay = 0.0  # 0 keeps no average of the parameters.
  c.mesh = dict(data=-1, fsdp=1, sequence=1, tensor=1)  # -1: the devices left.
  c.log_every = 10
  c.eval_every = 200
  c.eval_batches = 20  # Held-out batches looked at; 0 is all of them.
  c.checkpoint_every = 200
  c.max_skipped = 10  # Non-finite steps in a row that end the run.
  return c
