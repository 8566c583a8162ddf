"""A run of seconds for `test_killed.py`: a linear model, its data, its checkpoints.

  python toy_run.py FOLDER [--kill_after_save STEP --delay SECONDS] [--sleep SECONDS]

It goes on from FOLDER, saves every second step, and at the end writes its parameters.
It can kill itself with SIGKILL at a point of a save.
"""

import argparse
import os
import pathlib
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxseq import training

TOTAL_STEPS = 10
CONFIG = training.OptimizerConfig(total_steps=TOTAL_STEPS, learning_rate=0.01)


def loss_fn(params, batch, key):
  noise = jax.random.normal(key, batch["x"].shape)  # So that the key matters too.
  errors = (batch["x"] + 0.1 * noise) @ params["kernel"] - batch["y"]
  return jnp.sum(errors**2), {"weight": jnp.float32(errors.size)}


def batch(index):
  x = np.random.default_rng(index).standard_normal((4, 512), dtype=np.float32)
  return dict(x=x, y=np.tile(x[:, :1], (1, 1024)))


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("folder", type=pathlib.Path)
  parser.add_argument("--kill_after_save", type=int)
  parser.add_argument("--delay", type=float, default=0.0)
  parser.add_argument("--sleep", type=float, default=0.0)
  options = parser.parse_args()

  optimizer = training.make_optimizer(CONFIG)
  params = {"kernel": jnp.zeros((512, 1024))}  # 2 MB: a save takes a while.
  state = training.create(params, optimizer, jax.random.key(3), ema=True)
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state
  )
  checkpoints = training.Checkpointer(options.folder / "checkpoints")
  restored, index = checkpoints.restore(shapes), 0
  if restored is not None:
    _, state, data = restored
    index = data["next_index"]
  print("from", index, flush=True)
  step = training.make_step(
    loss_fn, optimizer, training.schedule(CONFIG), ema_decay=0.9
  )
  step = jax.jit(step, donate_argnums=0)
  with training.GracefulStop() as stop:
    while index < TOTAL_STEPS:
      state, _ = step(state, batch(index))
      index += 1
      if index % 2 == 0 or stop.requested:
        checkpoints.save(index, state, {"next_index": index})
      if index == options.kill_after_save:
        time.sleep(options.delay)
        os.kill(os.getpid(), signal.SIGKILL)
      if stop.requested:
        break
      time.sleep(options.sleep)
    checkpoints.close()
  if index == TOTAL_STEPS:
    state = state.replace(key=jax.random.key_data(state.key))
    leaves = {str(i): np.asarray(x) for i, x in enumerate(jax.tree.leaves(state))}
    np.savez(options.folder / "final.npz", **leaves)


if __name__ == "__main__":
  main()
