import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.modules.ssm import S5
from jaxseq.ops.ssm import discretize

ORACLES = pathlib.Path(__file__).parents[2] / "oracles"


def test_its_system_is_that_of_discretax():
  oracle = {k: jnp.asarray(v) for k, v in np.load(ORACLES / "dx_s5.npz").items()}
  params = {name: oracle[name] for name in "BCD"}
  params |= dict(lambda_real=oracle["Lambda_re"], lambda_imaginary=oracle["Lambda_im"])
  params["log_dt"] = oracle["log_step"][:, 0]
  # A gate that is wide open leaves GELU alone between the system and the output.
  params["gate"] = dict(kernel=jnp.zeros((6, 6)), bias=jnp.full(6, 50.0))
  mixer = S5(features=6, state_size=8, num_blocks=1, dtype=jnp.float32)
  y, _ = jax.jit(mixer.apply)({"params": params}, oracle["x"][None])
  np.testing.assert_allclose(y[0], jax.nn.gelu(oracle["y"]), atol=1e-5)


def test_it_begins_with_the_eigenvalues_of_hippo_in_blocks():
  mixer = S5(features=8, state_size=32, num_blocks=4)
  params = jax.jit(mixer.init)(jax.random.key(0), jnp.ones((1, 2, 8)))["params"]
  real, imaginary = params["lambda_real"].value, params["lambda_imaginary"].value
  np.testing.assert_allclose(real, -0.5, atol=1e-6)
  np.testing.assert_allclose(imaginary.reshape(4, 4), [imaginary[:4]] * 4)
  assert (imaginary > 0).all()


def test_both_directions_are_two_systems_one_over_the_reversed_documents():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 9, 6)), jnp.float32)
  ids = jnp.asarray([[1, 1, 1, 1, 2, 2, 2, 0, 0]])
  options = dict(features=6, state_size=8, num_blocks=1, dtype=jnp.float32)
  both, one = S5(**options, bidirectional=True), S5(**options)
  params = nn.unbox(jax.jit(both.init)(jax.random.key(0), x))["params"]
  # The gate is wide open, and GELU a straight line for outputs that are all large.
  wide = dict(kernel=jnp.zeros((6, 6)), bias=jnp.full(6, 50.0))
  params |= dict(gate=wide, D=jnp.full(6, 40.0))
  apply = lambda mixer, params, x: jax.jit(mixer.apply)({"params": params}, x)[0]
  x = 1 + jnp.abs(x)
  y, state = jax.jit(both.apply)({"params": params}, x, segment_ids=ids)
  assert state is None
  backward = params | dict(C=params["C_backward"])
  for place in (slice(0, 4), slice(4, 7)):
    part = x[:, place]
    want = apply(one, params, part) + apply(one, backward, part[:, ::-1])[:, ::-1]
    np.testing.assert_allclose(y[:, place], want - 40 * part, rtol=1e-4, atol=1e-3)
  with pytest.raises(ValueError, match="no state"):
    both.initial_state(1)
  with pytest.raises(ValueError, match="no state"):
    both.apply({"params": params}, x, jnp.zeros((1, 4)))


@pytest.mark.parametrize("rule", ["bilinear", "dirac"])
def test_other_rules_discretise_it(rule):
  x = jnp.zeros((1, 3, 6)).at[0, 0].set(1)
  mixer = S5(features=6, state_size=8, num_blocks=1, discretization=rule)
  params = jax.jit(mixer.init)(jax.random.key(0), x)
  _, state = jax.jit(mixer.apply)(params, x)
  p = {
    name: np.asarray(z.value) for name, z in params["params"].items() if name != "gate"
  }
  values = p["lambda_real"] + 1j * p["lambda_imaginary"]
  a, b = discretize.RULES[rule](values, np.exp(p["log_dt"]))
  want = a**2 * b * (p["B"][..., 0] + 1j * p["B"][..., 1]).sum(axis=1)
  np.testing.assert_allclose(state[0], want, rtol=2e-2)  # Its products are bfloat16.


def test_blocks_that_do_not_divide_are_refused():
  with pytest.raises(ValueError, match="num_blocks that divide state_size / 2 = 16"):
    S5(features=8, state_size=32, num_blocks=3)
  with pytest.raises(ValueError, match="discretization in .*'dirac'.*; got 'zoh'"):
    S5(features=8, discretization="zoh")
