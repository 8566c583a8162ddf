import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing
from jaxseq.modules.delta import GatedDeltaNet
from jaxseq.modules.linear import MixtureOfMemories


def test_one_memory_alone_is_gated_delta_net():
  mixer = MixtureOfMemories(
    features=32, num_memories=1, num_active=1, dtype=jnp.float32
  )
  params, x = testing.example(mixer)
  p = jax.tree.map(np.array, nn.unbox(params)["params"])
  p["v"]["kernel"][1] = 0  # The memory of all tokens holds nothing.
  y, _ = jax.jit(mixer.apply)({"params": p}, x)
  width = p["q"]["kernel"].shape[1]
  taps = np.split(p["conv"], [width, 2 * width], axis=1)
  plain = {name: p[name] for name in ("q", "gate", "out", "norm", "A_log", "dt_bias")}
  for name in ("k", "v", "beta", "dt"):
    plain[name] = {"kernel": p[name]["kernel"][0]}
  plain |= {f"{name}_conv": w for name, w in zip("qkv", taps)}
  want, _ = jax.jit(GatedDeltaNet(features=32, dtype=jnp.float32).apply)(
    {"params": plain}, x
  )
  testing.assert_close(y, want)


def test_a_memory_that_no_token_goes_to_stays_as_it_is():
  mixer = MixtureOfMemories(features=32, dtype=jnp.float32)
  params, x = testing.example(mixer)
  p = jax.tree.map(np.array, nn.unbox(params)["params"])
  x = x.at[..., 0].set(5.0)
  p["router"]["scores"]["kernel"][0] = [9, -9, 9, -9]  # Memories 0 and 2, always.
  before = jax.tree.map(jnp.ones_like, mixer.initial_state(2))
  _, after = jax.jit(mixer.apply)({"params": p}, x, before)
  for last, first in zip(after, before):
    np.testing.assert_array_equal(last[:, [1, 3]], first[:, [1, 3]])
    assert (np.abs(last - first)[:, [0, 2, 4]].max(axis=(0, 2, 3)) > 0.01).all()


def test_it_sows_how_well_the_memories_are_balanced():
  mixer = MixtureOfMemories(features=32, dtype=jnp.float32)
  params, x = testing.example(mixer)
  assert set(params) == {"params"}
  apply = jax.jit(functools.partial(mixer.apply, mutable=["losses"]))
  _, sown = apply(params, x)
  (loss,) = sown["losses"]["router"]["load_balance"]
  assert 0.5 < loss < 2


def test_more_active_memories_than_there_are_is_refused():
  with pytest.raises(ValueError, match="num_active from 1 to num_memories = 4; got 5"):
    MixtureOfMemories(features=32, num_active=5)
