import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.modules.delta import GatedDeltaNet

ORACLES = pathlib.Path(__file__).parents[2] / "oracles"
WEIGHTS = {
  ("q", "kernel"): "q_proj.weight",
  ("k", "kernel"): "k_proj.weight",
  ("v", "kernel"): "v_proj.weight",
  ("beta", "kernel"): "b_proj.weight",
  ("dt", "kernel"): "a_proj.weight",
  ("gate", "kernel"): "g_proj.weight",
  ("norm", "scale"): "o_norm.weight",
  ("out", "kernel"): "o_proj.weight",
}


def test_it_is_the_layer_of_flash_linear_attention():
  oracle = np.load(ORACLES / "fl_gated_deltanet.npz")
  params = {name: jnp.asarray(oracle[name]) for name in ("A_log", "dt_bias")}
  for name in "qkv":
    params[f"{name}_conv"] = jnp.asarray(oracle[f"{name}_conv1d.weight"][:, 0].T)
  for (module, name), source in WEIGHTS.items():
    params[module] = {name: jnp.asarray(oracle[source].T)}
  mixer = GatedDeltaNet(
    features=32, num_heads=2, head_dim=16, expand_v=1.0, dtype=jnp.float32
  )
  y, _ = jax.jit(mixer.apply)({"params": params}, jnp.asarray(oracle["x"]))
  np.testing.assert_allclose(y, oracle["y"], rtol=1e-4, atol=1e-5)


def qwen3_next(oracle):
  """Parameters from those of a layer with 2 key heads of 6, each with 2 values of 8.

  Rows of its input projections are grouped by key head: q, k, 2 v, 2 z and 2 b, 2 a.
  """
  joint = oracle["in_proj_qkvz.weight"].reshape(2, 44, 16)
  split = np.split(joint, [6, 12, 28], axis=1)
  gates = np.split(oracle["in_proj_ba.weight"].reshape(2, 4, 16), 2, axis=1)
  names = ("q", "k", "v", "gate", "beta", "dt")
  params = {
    name: {"kernel": x.reshape(-1, 16).T} for name, x in zip(names, [*split, *gates])
  }
  convs = np.split(oracle["conv1d.weight"][:, 0].T, [12, 24], axis=1)
  params |= {f"{name}_conv": x for name, x in zip("qkv", convs)}
  params |= {name: oracle[name] for name in ("A_log", "dt_bias")}
  params |= {"norm": {"scale": oracle["norm.weight"]}}
  params |= {"out": {"kernel": oracle["out_proj.weight"].T}}
  return {"params": jax.tree.map(jnp.asarray, params)}


def test_with_more_value_heads_it_is_the_layer_of_qwen3_next():
  oracle = np.load(ORACLES / "hf_gated_deltanet.npz")
  mixer = GatedDeltaNet(
    features=16,
    num_heads=2,
    num_value_heads=4,
    head_dim=6,
    expand_v=8 / 6,
    norm_epsilon=1e-6,
    dtype=jnp.float32,
  )
  run = lambda params, x: mixer.apply(params, x)[0]
  y, pullback = jax.vjp(jax.jit(run), qwen3_next(oracle), jnp.asarray(oracle["x"]))
  np.testing.assert_allclose(y, oracle["y"], rtol=1e-4, atol=1e-5)
  grads, grad_x = pullback(jnp.asarray(oracle["cot_y"]))
  grads = grads["params"]
  convs = np.concatenate([grads[f"{name}_conv"] for name in "qkv"], axis=1)
  for got, name in (
    (grad_x, "x"),
    (grads["A_log"], "A_log"),
    (grads["dt_bias"], "dt_bias"),
    (grads["norm"]["scale"], "norm.weight"),
    (convs.T[:, None], "conv1d.weight"),
  ):
    want = oracle[f"grad_{name}"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


def test_step_sizes_and_rates_begin_as_in_mamba_2():
  mixer = GatedDeltaNet(features=48, num_heads=64, head_dim=2)
  params = jax.jit(mixer.init)(jax.random.key(0), jnp.zeros((1, 1, 48)))["params"]
  dt = jax.nn.softplus(params["dt_bias"].unbox())
  rate = jnp.exp(params["A_log"].unbox())
  assert 0.001 <= dt.min() < 0.005 and 0.05 < dt.max() <= 0.1001
  assert 1 <= rate.min() < 4 and 12 < rate.max() <= 16


def test_heads_that_do_not_divide_are_named():
  with pytest.raises(ValueError, match="num_heads that divide 3/4 features = 24"):
    GatedDeltaNet(features=32, num_heads=5)
  with pytest.raises(ValueError, match="num_value_heads in multiples of num_heads = 4"):
    GatedDeltaNet(features=32, num_value_heads=6)
