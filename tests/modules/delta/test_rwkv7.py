import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.modules.delta import RWKV7, MetaState

D, H, K = 8, 2, 4
sigmoid = lambda x: 1 / (1 + np.exp(-x))


def example(cls, T=5):
  mixer = cls(features=D, num_heads=H, dtype=jnp.float32)
  x = jax.random.normal(jax.random.key(0), (1, T, D))
  params = nn.unbox(jax.jit(mixer.init)(jax.random.key(1), x))
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(2), len(leaves))
  noisy = [p + 0.3 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys)]
  return mixer, tree.unflatten(noisy), x


def by_the_paper(p, x):
  """Outputs and states of one sequence, the state [V, K] as in the paper."""
  heads = lambda y: y.reshape(H, K)
  S, before, outputs, states = np.zeros((H, K, K)), np.zeros(D), [], []
  linear = lambda x, name: x @ p[name]["kernel"]
  low = lambda x, name, f: linear(f(linear(x, f"{name}_down")), f"{name}_up")
  for token in x:
    mix = {c: token + (before - token) * p[f"mu_{c}"] for c in "rwkvag"}
    r, k, v = (heads(linear(mix[c], c)) for c in "rkv")
    w = np.exp(
      -np.exp(-0.5) * sigmoid(p["decay"] + heads(low(mix["w"], "decay", np.tanh)))
    )
    a = sigmoid(p["rate"] + heads(low(mix["a"], "rate", np.asarray)))
    kappa = k * p["direction"]
    kappa /= np.linalg.norm(kappa, axis=-1, keepdims=True)
    k = k * (1 + (a - 1) * p["key_rate"])
    o = np.zeros((H, K))
    for h in range(H):
      transition = np.diag(w[h]) - np.outer(kappa[h], a[h] * kappa[h])
      S[h] = S[h] @ transition + np.outer(v[h], k[h])
      o[h] = S[h] @ r[h]
    o = (o - o.mean(-1, keepdims=True)) / np.sqrt(o.var(-1, keepdims=True) + 64e-5)
    o = o.reshape(D) * p["norm"]["scale"] + p["norm"]["bias"]
    o += (np.sum(r * k * p["bonus"], -1, keepdims=True) * v).reshape(D)
    outputs.append(linear(o * low(mix["g"], "gate", sigmoid), "out"))
    states.append(S.copy())
    before = token
  return np.stack(outputs), np.stack(states)


def test_it_is_the_layer_of_the_paper_token_by_token():
  mixer, params, x = example(RWKV7)
  exact = jax.tree.map(lambda a: np.asarray(a, np.float64), params["params"])
  want, states = by_the_paper(exact, np.asarray(x[0], np.float64))
  y, state = jax.jit(mixer.apply)(params, x)
  np.testing.assert_allclose(y[0], want, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
    state.memory[0].swapaxes(1, 2), states[-1], rtol=1e-4, atol=1e-5
  )


def test_the_memory_of_meta_state_transforms_the_tokens_too():
  mixer, params, x = example(MetaState)
  y, _ = jax.jit(mixer.apply)(params, x)
  plain, _ = jax.jit(RWKV7(D, num_heads=H, dtype=jnp.float32).apply)(params, x)
  exact = jax.tree.map(lambda a: np.asarray(a, np.float64), params["params"])
  _, states = by_the_paper(exact, np.asarray(x[0], np.float64))
  z = np.asarray(x + plain)[0, :, :K]  # The channels of one head of two.
  z = z / np.linalg.norm(z, axis=-1, keepdims=True)
  want = np.einsum("tvk,tk->tv", states[:, 0], z)
  np.testing.assert_allclose((y - plain)[0, :, :K], want, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(y[..., K:], plain[..., K:], rtol=1e-6, atol=1e-6)


def test_heads_that_do_not_fit_are_named():
  with pytest.raises(ValueError, match="RWKV7 needs num_heads that divide"):
    RWKV7(features=32, num_heads=5)
  with pytest.raises(ValueError, match="MetaState needs encoder_heads from 1 to"):
    MetaState(features=32, encoder_heads=5)
