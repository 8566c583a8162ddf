import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.modules.ssm import RGLRU

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
  params["rates"] = oracle["rg_lru.recurrent_param"]
  for ours, theirs in [("input_gate", "input"), ("recurrence_gate", "recurrent")]:
    params[ours] = oracle[f"rg_lru.{theirs}_gate_weight"]
    params[f"{ours}_bias"] = oracle[f"rg_lru.{theirs}_gate_bias"].reshape(-1)
  return {"params": jax.tree.map(jnp.asarray, params)}


def test_it_is_the_recurrent_block_of_griffin_with_its_gradient():
  oracle = np.load(ORACLES / "hf_griffin_block.npz")
  mixer = RGLRU(features=16, num_heads=2, dtype=jnp.float32)
  run = lambda x: mixer.apply(griffin(oracle), x)[0]
  np.testing.assert_allclose(run(jnp.asarray(oracle["x"])), oracle["y"], atol=1e-5)
  loss = lambda x: jnp.sum(run(x) * oracle["cot_y"])
  np.testing.assert_allclose(jax.grad(loss)(oracle["x"]), oracle["grad_x"], atol=1e-5)


def test_an_open_gate_keeps_as_much_as_the_paper_says():
  mixer = RGLRU(features=512)
  params = mixer.init(jax.random.key(0), jnp.ones((1, 2, 512)))["params"]
  kept = np.exp(-8 * jax.nn.softplus(params["rates"].value))  # a^8 where r = 1.
  assert 0.9 <= kept.min() < 0.91 and 0.99 < kept.max() <= 0.9991


def test_heads_that_do_not_divide_are_refused():
  with pytest.raises(ValueError, match="num_heads that divide its width 30"):
    RGLRU(features=30)
