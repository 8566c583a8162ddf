import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing
from jaxseq.modules.ssm import Mamba, Mamba2

ORACLE = pathlib.Path(__file__).parents[2] / "oracles" / "hf_mamba.npz"


def transformers(oracle):
  """Our parameters from those of transformers' layer."""
  x, z = np.split(oracle["in_proj.weight"], 2)
  dt, BC = np.split(oracle["x_proj.weight"], [2])
  ssm = {
    "conv": oracle["conv1d.weight"][:, 0].T,
    "conv_bias": oracle["conv1d.bias"],
    "dt_down": {"kernel": dt.T},
    "BC": {"kernel": BC.T},
    "dt_up": {"kernel": oracle["dt_proj.weight"].T},
    "dt_bias": oracle["dt_proj.bias"],
    "A_log": oracle["A_log"],
    "D": oracle["D"],
  }
  out = {"kernel": oracle["out_proj.weight"].T}
  params = {"x": {"kernel": x.T}, "z": {"kernel": z.T}, "ssm": ssm, "out": out}
  return {"params": jax.tree.map(jnp.asarray, params)}


def test_it_is_the_layer_of_transformers():
  oracle = np.load(ORACLE)
  mixer = Mamba(features=16, state_size=4, dt_rank=2, dtype=jnp.float32)
  run = lambda params, x: mixer.apply(params, x)[0]
  y, pullback = jax.vjp(jax.jit(run), transformers(oracle), jnp.asarray(oracle["x"]))
  np.testing.assert_allclose(y, oracle["y"], rtol=1e-4, atol=1e-5)
  grads, grad_x = pullback(jnp.asarray(oracle["cot_y"]))
  grads = grads["params"]["ssm"]
  for got, name in (
    (grad_x, "x"),
    (grads["A_log"], "A_log"),
    (grads["D"], "D"),
    (grads["conv"].T[:, None], "conv1d.weight"),
    (grads["dt_up"]["kernel"].T, "dt_proj.weight"),
  ):
    want = oracle[f"grad_{name}"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


def begin(cls, **attributes):
  mixer = cls(features=32, implementation="recurrent", dtype=jnp.float32, **attributes)
  x = jax.random.normal(jax.random.key(1), (1, 20, 32))
  return mixer, nn.unbox(jax.jit(mixer.init)(jax.random.key(0), x)), x


def test_it_begins_with_the_time_scales_of_its_authors():
  _, params, _ = begin(Mamba, state_size=5)
  ssm = params["params"]["ssm"]
  np.testing.assert_allclose(np.exp(ssm["A_log"][3]), [1, 2, 3, 4, 5], rtol=1e-6)
  dt = nn.softplus(ssm["dt_bias"])
  assert 0.001 <= dt.min() < 0.01 < dt.max() <= 0.1 * (1 + 1e-5)


@pytest.mark.parametrize("cls", [Mamba, Mamba2])
def test_a_mimetic_start_is_attention_to_tokens_like_oneself(cls):
  mixer, params, x = begin(cls, state_size=64, initialization="mimetic_conv")
  x = x[:, :9].at[:, 8].set(x[:, 3])

  @jax.jit
  def answers(params, x):
    """Of the last output to each token, and the log decays."""
    (y, _), sown = mixer.apply(params, x, mutable=["gates"])
    return y[0, -1], jax.tree.leaves(sown)[0]

  matrices, _ = jax.jit(jax.jacfwd(answers, argnums=1))(params, x)
  sizes = jnp.linalg.norm(matrices[:, 0], axis=(0, 2))
  assert sizes[:8].argmax() == 3
  _, log_decay = answers(params, x)
  assert -1e-3 < log_decay.min() <= log_decay.max() < 0


def test_an_unknown_start_is_named():
  with pytest.raises(ValueError, match="Mamba needs initialization in .*'mimetic'"):
    Mamba(features=32, initialization="identity")


def test_steps_are_scaled_and_shifted_before_the_bias():
  mixer, params, x = begin(Mamba)
  run = lambda **steps: mixer.apply(params, x, **steps)[0]
  changed = dict(params["params"]["ssm"])
  changed["dt_up"] = {"kernel": 0.5 * changed["dt_up"]["kernel"]}
  changed["dt_bias"] = changed["dt_bias"] + 0.25
  other = {"params": {**params["params"], "ssm": changed}}
  scale, shift = jnp.full((1, 20), 0.5), jnp.full((1, 20, 64), 0.25)
  testing.assert_close(run(dt_scale=scale, dt_shift=shift), mixer.apply(other, x)[0])


def test_with_a_convolution_of_one_tap_a_split_sequence_gives_the_same():
  mixer, params, x = begin(Mamba, conv_size=1)
  whole, _ = mixer.apply(params, x)
  state = mixer.initial_state(1)
  assert state.x.shape == (1, 0, 64)
  head, state = mixer.apply(params, x[:, :1], state)
  tail, _ = mixer.apply(params, x[:, 1:], state)
  np.testing.assert_allclose(jnp.hstack([head, tail]), whole, rtol=1e-4, atol=1e-5)
  with pytest.raises(ValueError, match="Mamba needs conv_size >= 1; got 0"):
    Mamba(features=32, conv_size=0)
