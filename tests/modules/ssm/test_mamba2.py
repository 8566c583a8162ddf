import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing
from jaxseq.modules.ssm import Mamba2

ORACLE = pathlib.Path(__file__).parents[2] / "oracles" / "hf_mamba2.npz"


def transformers(oracle):
  """Our parameters from those of transformers' layer."""
  sizes = dict(z=32, x=32, BC=20, dt=4)
  cuts = np.cumsum(list(sizes.values()))[:-1]
  split = np.split(oracle["in_proj.weight"], cuts)
  params = {name: {"kernel": W.T} for name, W in zip(sizes, split)}
  convs = np.split(oracle["conv1d.weight"][:, 0].T, [32], axis=1)
  biases = np.split(oracle["conv1d.bias"], [32])
  for name, weight, bias in zip(("x", "BC"), convs, biases):
    params |= {f"{name}_conv": weight, f"{name}_conv_bias": bias}
  params |= {name: oracle[name] for name in ("A_log", "dt_bias", "D")}
  params |= {"norm_scale": oracle["norm.weight"]}
  params |= {"out": {"kernel": oracle["out_proj.weight"].T}}
  return {"params": jax.tree.map(jnp.asarray, params)}


def test_it_is_the_layer_of_transformers():
  oracle = np.load(ORACLE)
  mixer = Mamba2(
    features=16, num_heads=4, state_size=5, num_groups=2, dtype=jnp.float32
  )
  run = lambda params, x: mixer.apply(params, x)[0]
  y, pullback = jax.vjp(jax.jit(run), transformers(oracle), jnp.asarray(oracle["x"]))
  np.testing.assert_allclose(y, oracle["y"], rtol=1e-4, atol=1e-5)
  grads, grad_x = pullback(jnp.asarray(oracle["cot_y"]))
  grads = grads["params"]
  convs = np.concatenate([grads[f"{name}_conv"] for name in ("x", "BC")], axis=1)
  for got, name in (
    (grad_x, "x"),
    (grads["A_log"], "A_log"),
    (grads["dt_bias"], "dt_bias"),
    (grads["D"], "D"),
    (grads["norm_scale"], "norm.weight"),
    (convs.T[:, None], "conv1d.weight"),
  ):
    want = oracle[f"grad_{name}"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


def test_with_negative_eigenvalues_a_large_step_turns_the_state_around():
  mixer = Mamba2(features=32, negative_eigenvalues=True, dtype=jnp.float32)
  params, x = nn.unbox(testing.example(mixer))
  biases = params["params"]["dt_bias"]
  state = mixer.initial_state(2)
  state = state._replace(memory=jnp.ones_like(state.memory))
  for bias, share in ((-50.0, 1.0), (50.0, -1.0)):  # dt is 0, and large.
    params["params"]["dt_bias"] = jnp.full_like(biases, bias)
    with_state = jax.jit(mixer.apply)(params, x[:, :1], state)[1].memory
    without = jax.jit(mixer.apply)(params, x[:, :1])[1].memory
    np.testing.assert_allclose(with_state - without, share, rtol=1e-4)


def test_heads_that_do_not_divide_are_named():
  with pytest.raises(ValueError, match="num_heads that divide expand x features = 64"):
    Mamba2(features=32, num_heads=5)
  with pytest.raises(ValueError, match="multiple of num_groups = 3"):
    Mamba2(features=32, num_groups=3)
