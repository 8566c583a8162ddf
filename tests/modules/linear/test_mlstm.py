import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing
from jaxseq.modules.linear import MLSTM

ORACLE = pathlib.Path(__file__).parents[2] / "oracles" / "xlstm_mlstm_layer.npz"


def test_it_is_the_layer_of_the_authors():
  oracle = {k: jnp.asarray(x) for k, x in np.load(ORACLE).items()}
  up, gate = jnp.split(oracle["proj_up.weight"].T, 2, axis=1)
  linear = lambda name: dict(
    kernel=oracle[f"mlstm_cell.{name}.weight"].T, bias=oracle[f"mlstm_cell.{name}.bias"]
  )
  params = dict(
    up=dict(kernel=up),
    gate=dict(kernel=gate),
    conv=oracle["conv1d.conv.weight"][:, 0].T,
    conv_bias=oracle["conv1d.conv.bias"],
    **{n: oracle[f"{n}_proj.weight"].swapaxes(1, 2) for n in "qkv"},
    input_gate=linear("igate"),
    forget_gate=linear("fgate"),
    norm=dict(scale=1 + oracle["mlstm_cell.outnorm.weight"]),
    skip=oracle["learnable_skip"],
    down=dict(kernel=oracle["proj_down.weight"].T),
  )
  mixer = MLSTM(features=16, dtype=jnp.float32)
  assert mixer.inner_features == 64  # 2 x 16, rounded up.
  run = jax.jit(lambda x: mixer.apply({"params": params}, x)[0])
  y, pullback = jax.vjp(jax.jit(run), oracle["x"])
  testing.assert_close(y, oracle["y"])
  testing.assert_close(pullback(oracle["cot_y"])[0], oracle["grad_x"])


def test_memories_begin_long():
  mixer = MLSTM(features=32, dtype=jnp.float32)
  x = jax.random.normal(jax.random.key(0), (1, 2, 32))
  params = jax.jit(mixer.init)(jax.random.key(1), x)
  state = mixer.initial_state(1)
  old = state.memory._replace(n=jnp.ones_like(state.memory.n))
  _, (last, _) = jax.jit(mixer.apply)(params, 0 * x, state._replace(memory=old))
  want = (1 / (1 + np.exp(-np.array([3, 4, 5, 6.0])))) ** 2
  got = (last.n * jnp.exp(last.m)[..., None])[0, :, 0]
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_heads_that_do_not_divide_are_named():
  with pytest.raises(ValueError, match="MLSTM needs num_heads .* width 64; got 5"):
    MLSTM(features=32, num_heads=5)
