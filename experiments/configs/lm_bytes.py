r"""A byte-level language model of Python source text: the demo.

  python -m experiments.train --config=experiments/configs/lm_bytes.py \
    --workdir=runs/lm_bytes

Two cores: under four minutes. Any other mixer: --config.mixer=gla. Any other text:
--config.data.path=FOLDER or a glob.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  c = ml_collections.ConfigDict(dict(seed=0, total_steps=320))
  c.task = "language_model"
  c.mixer = "gated_delta_net,gated_delta_net,attention,gated_delta_net"
  c.batch_size = 16  # Sequences over all devices; data x fsdp must divide it.
  c.sequence_length = 256  # Tokens.
  c.data = dict(name="bytes", path="")  # "" is the standard library's own sources.
  c.model = dict(features=128, num_layers=4, num_heads=4, mlp="swiglu", remat="none")
  c.model.max_length = 2048  # Tokens that a cache holds.
  c.model.dtype = "auto"  # bfloat16 on a GPU or TPU, float32 on a CPU.
  c.mixer_options = dict()
  c.optimizer = dict(name="muon", learning_rate=5e-3, schedule="wsd", warmup_steps=20)
  c.optimizer.update(dict(weight_decay=0.1, clip_norm=1.0))
  c.accumulate_steps = 1  # Microbatches in a step.
  c.ema_decay = 0.0  # 0 keeps no average of the parameters.
  c.mesh = dict(data=-1, fsdp=1, sequence=1, tensor=1)  # -1: the devices left.
  c.log_every = 10
  c.eval_every = 80
  c.eval_batches = 16  # Held-out batches looked at; 0 is all of them.
  c.checkpoint_every = 80
  c.max_skipped = 10  # Non-finite steps in a row that end the run.
  return c
