r"""Induction heads (Mamba, arXiv:2312.00752, sec. 4.1.2), on a small scale.

  python -m experiments.train --config=experiments/configs/induction_heads.py \
    --config.mixer=mamba --workdir=runs/induction_heads_mamba

Minutes on a CPU. The paper trains at --config.sequence_length=256 and tries up to
a million tokens.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  c = ml_collections.ConfigDict(dict(seed=0, total_steps=800))
  c.task = "language_model"
  c.mixer = "mamba"
  c.batch_size = 64  # Sequences over all devices; data x fsdp must divide it.
  c.sequence_length = 64  # Tokens.
  c.data = dict(name="induction_heads", vocab_size=16)
  c.model = dict(features=64, num_layers=2, mlp="none", remat="none")
  c.model.dtype = "float32"
  c.mixer_options = dict()
  c.optimizer = dict(name="adamw", learning_rate=3e-3, schedule="cosine")
  c.optimizer.update(dict(warmup_steps=50, weight_decay=0.1, clip_norm=1.0))
  c.accumulate_steps = 1  # Microbatches in a step.
  c.ema_decay = 0.0  # 0 keeps no average of the parameters.
  c.mesh = dict(data=-1, fsdp=1, sequence=1, tensor=1)  # -1: the devices left.
  c.log_every = 50
  c.eval_every = 200
  c.eval_batches = 8  # Held-out batches looked at; 0 is all of them.
  c.checkpoint_every = 400
  c.max_skipped = 10  # Non-finite steps in a row that end the run.
  return c
