r"""Handwritten digits of scikit-learn as sequences of 64 pixels, to classify.

  python -m experiments.train --config=experiments/configs/digits.py \
    --config.mixer=s5 --workdir=runs/digits_s5

Minutes on a CPU. --config.data.permuted=True shuffles the pixels. The images
come with scikit-learn, which must be installed.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  c = ml_collections.ConfigDict(dict(seed=0, total_steps=1000))
  c.task = "classification"
  c.mixer = "s5"
  c.batch_size = 64  # Sequences over all devices; data x fsdp must divide it.
  c.sequence_length = 64  # Tokens: the pixels of an image.
  c.data = dict(name="digits", permuted=False, noise=0.0)
  c.model = dict(features=64, num_layers=2, num_heads=4, mlp="swiglu", remat="none")
  c.model.max_length = 64  # For the mixers whose filters or caches have a length.
  c.model.dtype = "float32"
  c.mixer_options = dict()
  c.optimizer = dict(name="adamw", learning_rate=4e-3, schedule="cosine")
  c.optimizer.update(dict(warmup_steps=50, weight_decay=1.0, clip_norm=1.0))
  c.accumulate_steps = 1  # Microbatches in a step.
  c.ema_decay = 0.99  # The average is what is evaluated; 0 keeps none.
  c.mesh = dict(data=-1, fsdp=1, sequence=1, tensor=1)  # -1: the devices left.
  c.log_every = 50
  c.eval_every = 200
  c.eval_batches = 0  # Held-out batches looked at; 0 is all of them.
  c.checkpoint_every = 500
  c.max_skipped = 10  # Non-finite steps in a row that end the run.
  return c
