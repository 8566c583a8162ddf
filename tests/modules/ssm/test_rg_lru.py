import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.modules.ssm import RGLRU, rg_lru

ORACLES = pathlib.Path(__file__).parents[2] / "oracles"


def griffin(oracle):
  dense = lambda name: {
    "kernel": oracle[f"{name}.weight"].T,
    "bias": oracle[f"{name}.bias"],
  }
  params = dict(
    side=dense("linear_y"), input=dense("linear_x"), out=dense("linear_out")
  )
  params["conv"] = oracle["conv_1d.weight"][:, 0].T
  params["conv_bias"] = oracle["conv_1d.bias"]
  params |= gates(oracle, "rg_lru.")
  return {"params": jax.tree.map(jnp.asarray, params)}


def gates(oracle, prefix=""):
  params = {"rates": oracle[f"{prefix}recurrent_param"]}
  for ours, theirs in [("input_gate", "input"), ("recurrence_gate", "recurrent")]:
    params[ours] = oracle[f"{prefix}{theirs}_gate_weight"]
    params[f"{ours}_bias"] = oracle[f"{prefix}{theirs}_gate_bias"].reshape(-1)
  return params


def bare(oracle):
  """Parameters that leave the RG-LRU alone between input and output."""
  one, zero = np.eye(16, dtype=np.float32), np.zeros(16, np.float32)
  params = gates(oracle) | dict(
    side=dict(kernel=0 * one, bias=zero + 16),  # GELU(16) = 16.
    input=dict(kernel=one, bias=zero),
    out=dict(kernel=one / 16, bias=zero),
    conv=np.stack([zero, zero, zero, zero + 1]),
    conv_bias=zero,
  )
  return {"params": jax.tree.map(jnp.asarray, params)}


def test_it_is_the_recurrent_block_of_griffin_with_its_gradient():
  oracle = np.load(ORACLES / "hf_griffin_block.npz")
  mixer = RGLRU(features=16, num_heads=2, dtype=jnp.float32)
  run = jax.jit(lambda x: mixer.apply(griffin(oracle), x)[0])
  np.testing.assert_allclose(run(jnp.asarray(oracle["x"])), oracle["y"], atol=1e-5)
  loss = lambda x: jnp.sum(run(x) * oracle["cot_y"])
  np.testing.assert_allclose(jax.grad(loss)(oracle["x"]), oracle["grad_x"], atol=1e-5)


def test_its_recurrence_resets_where_transformers_does_and_has_its_gradients():
  oracle = np.load(ORACLES / "hf_rglru.npz")
  mixer, params = RGLRU(features=16, num_heads=2, dtype=jnp.float32), bare(oracle)
  ids = jnp.where(jnp.arange(20) < 7, 1, 2)[None].repeat(2, axis=0)
  y, _ = jax.jit(mixer.apply)(params, oracle["x"], segment_ids=ids)
  np.testing.assert_allclose(y, oracle["y_reset"], atol=1e-5)
  later = mixer.initial_state(2)._replace(started=jnp.ones(2, bool))
  run = jax.jit(lambda params, x: mixer.apply(params, x, later)[0])
  np.testing.assert_allclose(run(params, oracle["x"]), oracle["y_norst"], atol=1e-5)
  loss = lambda *args: jnp.sum(run(*args) * oracle["cot_y_norst"])
  grads, grad_x = jax.grad(loss, argnums=(0, 1))(params, oracle["x"])
  np.testing.assert_allclose(grad_x, oracle["grad_x"], atol=1e-5)
  for name, theirs in gates(oracle, "grad_").items():
    got = grads["params"][name]
    np.testing.assert_allclose(got, theirs, rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_root_is_exact_and_its_derivative_bounded():
  root, slope = jax.vmap(jax.value_and_grad(rg_lru._bounded_sqrt))(
    jnp.array([0, 1e-9, 1e-6, 0.25])
  )
  np.testing.assert_allclose(root, np.sqrt([0, 1e-9, 1e-6, 0.25]), rtol=1e-6)
  np.testing.assert_allclose(slope, [1000, 1000, 500, 1], rtol=1e-6)


def test_an_open_gate_keeps_as_much_as_the_paper_says():
  mixer = RGLRU(features=512)
  params = jax.jit(mixer.init)(jax.random.key(0), jnp.ones((1, 2, 512)))["params"]
  kept = np.exp(-8 * jax.nn.softplus(params["rates"].value))  # a^8 where r = 1.
  assert 0.9 <= kept.min() < 0.91 and 0.99 < kept.max() <= 0.9991


def test_heads_that_do_not_divide_are_refused():
  with pytest.raises(ValueError, match="num_heads that divide its width 30"):
    RGLRU(features=30)
