import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jaxseq import testing
from jaxseq.modules.ssm import BiMamba, Mamba, MambaDNA


def test_each_direction_is_a_mamba_with_the_same_projections():
  mixer = BiMamba(features=32, dtype=jnp.float32)
  params, x = testing.example(mixer)
  apply = jax.jit(Mamba(features=32, dtype=jnp.float32).apply)

  def one(direction, x):
    ssm = jax.tree.map(lambda p: p[direction], nn.unbox(params)["params"]["ssm"])
    return apply({"params": {**params["params"], "ssm": ssm}}, x)[0]

  want = one(0, x) + one(1, x[:, ::-1])[:, ::-1]
  testing.assert_close(jax.jit(mixer.apply)(params, x)[0], want)


def test_the_reverse_complement_is_answered_with_the_reverse_complement():
  mixer = MambaDNA(features=32, dtype=jnp.float32)
  params, x = testing.example(mixer)
  apply = jax.jit(mixer.apply)
  y, _ = apply(params, x)
  testing.assert_close(apply(params, x[:, ::-1, ::-1])[0], y[:, ::-1, ::-1])


def test_an_odd_number_of_features_is_named():
  with pytest.raises(ValueError, match="MambaDNA needs an even number of features"):
    MambaDNA(features=33)
