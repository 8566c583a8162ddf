import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxseq import parallel, training

CONFIG = training.OptimizerConfig(total_steps=10)


def state(seed=0, place=None):
  """A train state of random numbers, on a place if one is given."""
  keys = jax.random.split(jax.random.key(seed), 2)
  params = {
    "kernel": jax.random.normal(keys[0], (64, 32)),
    "half": jax.random.normal(keys[1], (16,)).astype(jnp.bfloat16),
  }
  if place is not None:
    params = {name: jax.device_put(x, place[x.ndim]) for name, x in params.items()}
  optimizer = training.make_optimizer(CONFIG)
  return training.create(params, optimizer, jax.random.key(seed), ema=True)


def shapes(of, place=None):
  one = lambda x: jax.ShapeDtypeStruct(
    x.shape,
    x.dtype,
    sharding=place or jax.sharding.SingleDeviceSharding(jax.devices()[0]),
  )
  return jax.tree.map(one, of)


def assert_same(a, b):
  bits = lambda t: [
    np.asarray(
      jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    )
    for x in jax.tree.leaves(t)
  ]
  for x, y in zip(bits(a), bits(b), strict=True):
    np.testing.assert_array_equal(x, y)


def saved(directory, steps):
  checkpoints = training.Checkpointer(directory)
  for n in steps:
    checkpoints.save(n, state(n), {"next_index": n})
  checkpoints.close()


def test_what_is_saved_is_restored_bit_for_bit(tmp_path):
  checkpoints = training.Checkpointer(tmp_path)
  assert checkpoints.restore(shapes(state())) is None
  checkpoints.save(3, state(3), {"next_index": 3})
  checkpoints.close()
  step, restored, data = training.Checkpointer(tmp_path).restore(shapes(state()))
  assert step == 3 and data == {"next_index": 3}
  assert_same(restored, state(3))


def test_the_newest_are_kept_and_a_step_is_never_overwritten(tmp_path):
  saved(tmp_path, [1, 2, 3, 4])
  checkpoints = training.Checkpointer(tmp_path)
  assert checkpoints.steps() == [2, 3, 4]
  checkpoints.save(4, state(99), {})
  with pytest.raises(ValueError, match="a step after 4; got 1"):
    checkpoints.save(1, state(1), {})
  checkpoints.wait()
  assert_same(checkpoints.restore(shapes(state()))[1], state(4))
  with pytest.raises(ValueError, match="max_to_keep >= 2"):
    training.Checkpointer(tmp_path, max_to_keep=1)


def largest_file(folder):
  return max(
    (f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size
  )


def truncate(folder):
  file = largest_file(folder)
  file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_bit(folder):
  file = largest_file(folder)
  data = bytearray(file.read_bytes())
  data[len(data) // 2] ^= 16
  file.write_bytes(data)


def delete_a_file(folder):
  largest_file(folder).unlink()


def delete_the_metadata(folder):
  for file in (folder / "meta").iterdir():
    file.unlink()


def change_the_state_of_the_data(folder):
  """To what reads as well: only a checksum tells."""
  file = folder / "meta" / "metadata"
  changed = file.read_text().replace(": 2}", ": 3}")
  assert changed != file.read_text()
  file.write_text(changed)


def put_the_arrays_of_another_step(folder):
  """Well-formed to orbax: only our checksums tell."""
  shutil.rmtree(folder / "state")
  shutil.copytree(folder.with_name("1") / "state", folder / "state")


@pytest.mark.parametrize(
  "damage",
  [
    truncate,
    flip_a_bit,
    delete_a_file,
    delete_the_metadata,
    change_the_state_of_the_data,
    put_the_arrays_of_another_step,
  ],
)
def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_used(
  damage, tmp_path, caplog
):
  saved(tmp_path, [1, 2])
  damage(tmp_path / "2")
  checkpoints = training.Checkpointer(tmp_path)
  step, restored, _ = checkpoints.restore(shapes(state()))
  assert step == 1
  assert_same(restored, state(1))
  assert "checkpoint 2 is damaged" in caplog.text and checkpoints.damaged == [2]
  assert "checkpoint 1 is used instead of [2]" in caplog.text
  assert (tmp_path / "2").exists(), "reading changed something"
  checkpoints.save(2, state(5), {})  # Its place is free again.
  checkpoints.close()
  assert list(tmp_path.glob("damaged_2_*")), "what is damaged was deleted"
  assert_same(training.Checkpointer(tmp_path).restore(shapes(state()))[1], state(5))


def test_if_all_are_damaged_it_says_so_each_time(tmp_path):
  saved(tmp_path, [1, 2])
  for n in (1, 2):
    truncate(tmp_path / str(n))
  for _ in range(2):  # A scheduler starts it again: it must not begin from nothing.
    with pytest.raises(training.DamagedError, match=r"all checkpoints .* \[2, 1\]"):
      training.Checkpointer(tmp_path).restore(shapes(state()))


def test_the_state_of_another_model_spoils_no_checkpoint(tmp_path):
  saved(tmp_path, [1, 2])
  other = shapes(state())
  other = other.replace(params=other.params | {"more": other.params["kernel"]})
  with pytest.raises(training.DamagedError, match="another model"):
    training.Checkpointer(tmp_path).restore(other)
  assert training.Checkpointer(tmp_path).restore(shapes(state()))[0] == 2


def test_a_run_may_be_read_while_it_saves(tmp_path):
  writer = training.Checkpointer(tmp_path)
  writer.save(1, state(1), {})
  writer.wait()
  more = {"large": jnp.ones((3000, 1000))}
  writer.save(2, state(2).replace(ema=more), {})
  training.Checkpointer(tmp_path).restore(shapes(state()))
  writer.close()
  target = shapes(state().replace(ema=more))
  assert training.Checkpointer(tmp_path).restore(target)[0] == 2


def test_what_is_being_saved_may_be_donated(tmp_path):
  overwrite = jax.jit(lambda x: x + 1, donate_argnums=0)
  before = state(1).replace(ema=None, opt_state=None, params=jnp.ones((1500, 1500)))
  target = shapes(before)
  checkpoints = training.Checkpointer(tmp_path)
  checkpoints.save(1, before, {})
  x = before.params
  for _ in range(4):
    x = overwrite(x)
  x.block_until_ready()
  checkpoints.close()
  _, after, _ = training.Checkpointer(tmp_path).restore(target)
  np.testing.assert_array_equal(after.params, 1)


def test_a_checkpoint_restores_onto_another_mesh(tmp_path):
  place = lambda sizes, *axes: NamedSharding(
    parallel.make_mesh(parallel.MeshConfig(**sizes)), PartitionSpec(*axes)
  )
  eight = dict(data=1, fsdp=8)
  before = state(7, {2: place(eight, "fsdp"), 1: place(eight, "fsdp")})
  checkpoints = training.Checkpointer(tmp_path)
  checkpoints.save(1, before, {})
  checkpoints.close()
  mixed = dict(data=2, fsdp=2, tensor=2)
  target = shapes(before, place(mixed))
  cut = place(mixed, "fsdp", "tensor")
  kernel = jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=cut)
  target = target.replace(params=target.params | {"kernel": kernel})
  _, after, _ = training.Checkpointer(tmp_path).restore(target)
  assert after.params["kernel"].sharding.spec == PartitionSpec("fsdp", "tensor")
  assert_same(after, before)


def test_another_config_is_refused_with_the_fields_that_differ(tmp_path):
  path = tmp_path / "run" / "config.json"
  config = dict(seed=0, mixer="gla", mesh=dict(data=1), model=dict(width=8))
  training.check_config(path, config, ("mesh",))
  assert json.loads(path.read_text()) == config
  training.check_config(path, config | dict(mesh=dict(data=8)), ("mesh",))
  other = config | dict(mixer="s5", model=dict(width=16))
  with pytest.raises(ValueError, match="mixer: gla -> s5; model.width: 8 -> 16"):
    training.check_config(path, other, ("mesh",))
  assert json.loads(path.read_text()) == config
