import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxseq import testing
from jaxseq.modules.rnn import RWKV4, RWKV4ChannelMix

ORACLE = np.load(pathlib.Path(__file__).parents[2] / "oracles" / "hf_rwkv4.npz")


def test_it_is_the_layer_of_transformers():
  names = dict(k="key", v="value", r="receptance", out="output")
  params = {a: dict(kernel=ORACLE[f"{b}.weight"].T) for a, b in names.items()}
  params |= {f"mu_{a}": ORACLE[f"time_mix_{names[a]}"].reshape(16) for a in "kvr"}
  params |= dict(decay=ORACLE["time_decay"], bonus=ORACLE["time_first"])
  mixer = RWKV4(features=16, dtype=jnp.float32)
  run = lambda x: mixer.apply({"params": params}, x)[0]
  y, pull = jax.vjp(jax.jit(run), ORACLE["x"])
  np.testing.assert_allclose(y, ORACLE["y"], atol=1e-6)
  (grad,) = pull(ORACLE["cot_y"])
  np.testing.assert_allclose(grad, ORACLE["grad_x"], rtol=1e-4, atol=1e-6)


def test_channel_mixing_is_the_papers():
  mixer = RWKV4ChannelMix(features=6, dtype=jnp.float32)
  params, x = nn.unbox(testing.example(mixer))
  y, _ = jax.jit(mixer.apply)(params, x)
  p, x = jax.tree.map(np.float64, (params["params"], x))
  before = np.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]
  mixed = lambda n: p[f"mu_{n}"] * x + (1 - p[f"mu_{n}"]) * before
  v = np.maximum(mixed("k") @ p["k"]["kernel"], 0) ** 2 @ p["v"]["kernel"]
  want = v / (1 + np.exp(-mixed("r") @ p["r"]["kernel"]))
  testing.assert_close(y, want.astype(np.float32))


def test_it_begins_as_the_authors():
  p = nn.unbox(jax.jit(RWKV4(features=4).init)(jax.random.key(0), jnp.ones((1, 1, 4))))
  p = p["params"]
  np.testing.assert_allclose(p["decay"][jnp.array([0, 3])], [-5, 3])
  np.testing.assert_allclose(p["bonus"], np.log(0.3) + 0.5 * np.array([0, 1, -1, 0]))
  np.testing.assert_allclose(p["mu_r"], np.sqrt([0, 0.25, 0.5, 0.75]), rtol=1e-6)
  assert not any(p[name]["kernel"].any() for name in ("k", "r", "out"))
