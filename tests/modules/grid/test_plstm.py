"""The layers of pLSTM against their equations in numpy, float64."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops, testing
from jaxseq.modules.grid.plstm import PLSTM, PLSTM2D, PLSTM2DDiffusive

GRID = (3, 4)
T, D, H, K = 12, 32, 4, 8


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def example(cls, **options):
  """Parameters by name, linear maps as functions; inputs, and what comes out."""
  params, x = nn.unbox(testing.example(cls(features=D, dtype=jnp.float32), T))
  got, _ = jax.jit(cls(features=D, dtype=jnp.float32, **options).apply)(params, x)
  wide = jax.tree.map(lambda a: np.asarray(a, np.float64), params["params"])

  def linear(W):
    return lambda x: x @ W["kernel"] + W.get("bias", 0)

  p = {name: linear(W) if isinstance(W, dict) else W for name, W in wide.items()}
  return p, np.asarray(x, np.float64), np.asarray(got)


def normed(p, o):
  o = o / np.sqrt(np.mean(o**2, axis=-1, keepdims=True) + 1e-5)
  return p["out"](o.reshape(*o.shape[:2], D) * p["norm_scale"])


def gates(p, x, mode):
  """Source, Transition and Mark [B, T, H, 4, ...]."""
  gate = lambda name, *shape: p[name](x).reshape(*x.shape[:2], H, 4, *shape)
  if mode == "D":
    t = np.tanh(5 * gate("transition", 3))
    t = np.stack([t[..., 0], t[..., 1], 0 * t[..., 0], t[..., 2]], axis=-1)
    t = t.reshape(*t.shape[:-1], 2, 2)
    return sigmoid(gate("source", 2)), t, sigmoid(gate("mark", 2))
  a = sigmoid(p["angle"](x / (2 * D)).reshape(*x.shape[:2], H, 4))
  column = np.stack([a, 1 - a], axis=-1)
  t = np.tanh(5 * gate("transition"))[..., None, None] * column[..., None]
  m = sigmoid(gate("mark"))[..., None] * np.ones(2)
  return sigmoid(gate("source"))[..., None] * column, t * np.ones(2), m


def gating_matrix(source, transition, mark, direction):
  """M (1 - T)^-1 S over all edges: what node i reads of node j."""
  node = np.arange(T).reshape(GRID)
  turned = node[:: -1 if direction // 2 else 1, :: -1 if direction % 2 else 1]
  S, M, edges = np.zeros((2 * T, T)), np.zeros((T, 2 * T)), np.zeros((2 * T, 2 * T))
  for row, column in np.ndindex(*GRID):
    n = turned[row, column]
    S[[n, T + n], n] = source[n]
    before = [(row, column - 1), (row - 1, column)]
    for e, place in enumerate(before):
      if min(place) >= 0:
        entering = e * T + turned[place]
        M[n, entering] = mark[n, e]
        edges[[n, T + n], entering] = transition[n, :, e]
  return M @ np.linalg.solve(np.eye(2 * T) - edges, S)


@pytest.mark.parametrize("cls", [PLSTM2D, PLSTM2DDiffusive])
def test_on_a_grid_it_is_its_equation(cls):
  p, x, got = example(cls, grid=GRID)
  q, k, v = (p[name](x).reshape(2, T, H, K) for name in "qkv")
  stm = gates(p, x, cls.mode)
  o = np.zeros(v.shape)
  for b, h in np.ndindex(2, H):
    G = sum(gating_matrix(*(g[b, :, h, d] for g in stm), d) for d in range(4))
    G += np.eye(T) * sigmoid(p["direct"][h])
    o[b, :, h] = (q[b, :, h] @ k[b, :, h].T / K**0.5 * G) @ v[b, :, h]
  want = normed(p, o)
  np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


def test_on_a_sequence_it_is_its_equation():
  p, x, got = example(PLSTM)
  padded = np.pad(x, [(0, 0), (3, 0), (0, 0)])
  c = sum(padded[:, i : i + T] * p["conv"][i] for i in range(4)) + p["conv_bias"]
  q, k, v = (p[n](y).reshape(2, T, H, K) for n, y in (("q", c), ("k", c), ("v", x)))
  s, m = (sigmoid(p[name](c)) for name in ("source", "mark"))
  t, d = np.tanh(5 * p["transition"](c)), sigmoid(p["direct"])
  C, o = np.zeros((2, H, K, K)), np.zeros(v.shape)
  for i in range(T):
    own = k[:, i, :, :, None] * v[:, i, :, None]
    read = m[:, i, :, None, None] * C + d[:, None, None] * own
    o[:, i] = np.einsum("bhk,bhkv->bhv", q[:, i], read) / K**0.5
    C = t[:, i, :, None, None] * C + s[:, i, :, None, None] * own
  want = normed(p, o) + p["scale"] * c
  np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("cls", [PLSTM2D, PLSTM2DDiffusive])
def test_whatever_the_inputs_are_the_transitions_are_stable(cls, monkeypatch):
  mixer = cls(features=D, dtype=jnp.float32)
  params, x = nn.unbox(testing.example(mixer, T))
  seen = {}
  given = lambda q, k, v, s, t, *_, **__: seen.update(transition=t) or v
  monkeypatch.setattr(ops, "plstm_2d", given)
  mixer.apply(params, 10 * x)
  size = np.abs(seen["transition"])
  assert size.max() <= 1 and seen["transition"].min() < -0.1
  if cls is PLSTM2D:
    assert size.sum(axis=-2).max() <= 1 + 1e-6
  else:
    assert not size[..., 1, 0].any()


def test_what_does_not_fit_is_named():
  with pytest.raises(ValueError, match="PLSTM2D needs mode 'P' or 'D'; got 'p'"):
    PLSTM2D(features=D, mode="p")
  mixer = PLSTM2D(features=D, grid=(2, 3))
  with pytest.raises(ValueError, match="a grid of T = 7 nodes; got 2 x 3"):
    jax.eval_shape(mixer.init, jax.random.key(0), jnp.zeros((1, 7, D)))
