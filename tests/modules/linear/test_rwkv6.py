import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing
from jaxseq.modules.linear import RWKV6


def layer(p, x, H):
  """The equations, one token at a time."""
  D = x.shape[-1]
  silu = lambda a: a / (1 + np.exp(-a))
  d = np.concatenate([np.zeros((1, D)), x[:-1]]) - x
  z = np.tanh((x + d * p["mu_x"]) @ p["mix_down"]["kernel"])
  mixed = {
    c: x + d * (p[f"mu_{c}"] + z_c @ B)
    for c, z_c, B in zip("wkvrg", np.split(z, 5, axis=-1), p["mix_up"])
  }
  low = np.tanh(mixed["w"] @ p["decay_down"]["kernel"])
  w = np.exp(-np.exp(p["decay"] + low @ p["decay_up"]["kernel"]))
  heads = lambda a: a.reshape(len(x), H, D // H)
  r, k, v = (heads(mixed[c] @ p[c]["kernel"]) for c in "rkv")
  S, out = np.zeros((H, D // H, D // H)), []
  for t in range(len(x)):
    write = k[t][:, :, None] * v[t][:, None, :]
    out.append(np.einsum("hk,hkv->hv", r[t], S + p["bonus"][..., None] * write))
    S = heads(w)[t][:, :, None] * S + write
  o = np.stack(out)
  o = o - o.mean(-1, keepdims=True)
  o = o / np.sqrt((o**2).mean(-1, keepdims=True) + 64e-5)
  o = o.reshape(x.shape) * p["norm"]["scale"] + p["norm"]["bias"]
  return (o * silu(mixed["g"] @ p["gate"]["kernel"])) @ p["out"]["kernel"]


def test_it_is_the_equations_of_the_paper():
  mixer = RWKV6(features=32, dtype=jnp.float32)
  params, x = testing.example(mixer)
  y, _ = jax.jit(mixer.apply)(params, x)
  wide = jax.tree.map(lambda a: np.asarray(a, np.float64), nn.unbox(params["params"]))
  testing.assert_close(y[0], layer(wide, np.asarray(x[0], np.float64), 4))


def test_initial_decays_go_from_slow_to_fast():
  mixer = RWKV6(features=32, dtype=jnp.float32)
  x = jax.random.normal(jax.random.key(0), (1, 2, 32))
  params = jax.jit(mixer.init)(jax.random.key(1), x)
  state = mixer.initial_state(1)
  state = state._replace(memory=jnp.ones_like(state.memory))
  _, last = jax.jit(mixer.apply)(params, 0 * x, state)
  kept = np.sqrt(last.memory[0, :, :, 0].reshape(-1))  # Two tokens.
  np.testing.assert_allclose(kept[[0, -1]], np.exp(-np.exp([-6, -1])), rtol=1e-5)
  assert (np.diff(kept) < 0).all()


def test_heads_that_do_not_divide_are_named():
  with pytest.raises(ValueError, match="RWKV6 needs num_heads"):
    RWKV6(features=32, num_heads=5)
