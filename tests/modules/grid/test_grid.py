"""The mixers over a grid, against their equations written out, with T x T weights."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import layers, registry, testing

GRID = (3, 4)
T, D, H, K = 12, 32, 4, 8
ROW, COLUMN = np.indices(GRID).reshape(2, T)


def scores(q, k):
  return jnp.einsum("bihk,bjhk->bhij", q, k, precision="highest")


def mix(weights, v):
  return jnp.einsum("bhij,bjhv->bihv", weights, v, precision="highest")


def split(x):
  return x.reshape(2, T, H, -1)


class Params(dict):
  """The parameters, with linear maps by name."""

  def linear(self, x, name):
    p = self[name]
    return jnp.dot(x, p["kernel"], precision="highest") + p.get("bias", 0)

  def heads(self, x):
    return (split(self.linear(x, name)) for name in "qkv")

  def convolve(self, x, grid):
    p = self["conv"]
    weight = p["kernel"][..., 0, :]
    return layers.depthwise_conv(x, weight, grid=grid) + p.get("bias", 0)

  def norm(self, x, name):
    root = jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5)
    return x / root * self[name]["scale"]


def vig(p, x, grid):
  c = nn.swish(p.convolve(x, grid))
  q, k, v = p.heads(c)
  gates = p.linear(p.linear(c, "gate_down"), "gate_up")
  f, g = (split(y) for y in jnp.split(nn.log_sigmoid(gates) / 16, 2, axis=-1))
  far = 0
  for run, decay in ((lambda y: y, f), (lambda y: y[:, ::-1], g)):
    S, out = jnp.zeros((2, H, q.shape[-1], K)), []
    for t in range(T):
      a, k_t, v_t, q_t = (run(y)[:, t] for y in (decay, k, v, q))
      S = jnp.exp(a)[..., None] * S + k_t[..., None] * v_t[..., None, :]
      out.append(jnp.einsum("bhk,bhkv->bhv", q_t, S, precision="highest"))
    far += run(jnp.stack(out, axis=1)) * q.shape[-1] ** -0.5 / 2
  r = split(nn.sigmoid(p.linear(c, "output_gate")))
  return r * p.norm(far, "norm") + (1 - r) * p.norm(split(c), "local_norm")


def vir(p, x, grid):
  q, k, v = p.heads(x)
  distance = np.arange(T)[:, None] - np.arange(T)
  gamma = 1 - 2.0 ** (-5 - np.arange(H))
  D_ij = np.where(distance >= 0, gamma[:, None, None] ** distance, 0)
  o = mix(scores(q, k) * D_ij / K**0.5, v).reshape(2, T, D)
  o = (o - o.mean(-1, keepdims=True)) / jnp.sqrt(o.var(-1, keepdims=True) + 1e-5)
  return nn.gelu(o * p["norm"]["scale"] + p["norm"]["bias"], approximate=False)


def rala(p, x, grid):
  q, k, v = p.heads(x)
  q, k = nn.elu(q) + 1, nn.elu(k) + 1
  alpha = jnp.einsum("bhk,bjhk->bjh", q.mean(1), k, precision="highest") / K**0.5
  k = k * T * jax.nn.softmax(alpha, axis=1)[..., None]
  # Pairs of channels are complex numbers, turned by the distance of their places.
  places = (np.arange(T),) if grid is None else (ROW, COLUMN)
  parts = jnp.stack([q, k]).reshape(2, 2, T, H, len(places), 2, -1)
  weights = 0
  for a, place in enumerate(places):
    real, imaginary = jnp.moveaxis(parts[..., a, :, :], -2, 0)
    pair_q, pair_k = real + 1j * imaginary
    frequency = 1 / 10000 ** np.linspace(0, 1, pair_q.shape[-1])
    turn = np.exp(1j * (place[:, None] - place)[..., None] * frequency)
    weights += jnp.einsum(
      "bihk,ijk,bjhk->bhij", pair_q, turn, jnp.conj(pair_k), precision="highest"
    ).real
  z = jnp.einsum("bihk,bhk->bih", q, k.mean(1), precision="highest")[..., None]
  o = mix(weights / T, v) / (z + 1e-6)
  local = p.convolve(v.reshape(2, T, D), grid)
  return (o.reshape(2, T, D) + local) * p.linear(x, "gate")


def slab(p, x, grid):
  q, k, v = p.heads(x)
  if grid is not None:
    k += p["key_position"].reshape(T, H, K)
  weights = scores(nn.relu(q), nn.relu(k))
  o = mix(weights / jnp.maximum(weights.sum(-1, keepdims=True), 1e-6), v)
  return o + p.convolve(v, grid)


def inline_weights(q, k):
  s, mean = K**-0.5, k.mean(1, keepdims=True)
  return (s * scores(q, k) + 1 - s * scores(q, mean)) / T


def inline(p, x, grid):
  q, k, v = p.heads(x)
  each = functools.partial(jnp.einsum, "bhv,hvw->bhw", precision="highest")
  r = each(x.mean(1).reshape(2, H, K), p["neighbours_up_kernel"])
  r = nn.gelu(r + p["neighbours_up_bias"], approximate=False)
  r = each(r, p["neighbours_down_kernel"]) + p["neighbours_down_bias"]
  r = r.reshape(2, D, *((3,) if grid is None else (3, 3)))
  local = [
    layers.depthwise_conv(
      v[i : i + 1].reshape(1, T, D), jnp.moveaxis(r[i], 0, -1), grid=grid
    )
    for i in range(2)
  ]
  return mix(inline_weights(q, k), v) + split(jnp.concatenate(local))


def scatterformer(p, x, grid):
  q, k, v = p.heads(x)
  window = np.arange(T) // 2 if grid is None else (ROW // 2) * 9 + COLUMN // 2
  weights = scores(nn.relu(q), nn.relu(k)) * (window[:, None] == window)
  return mix(weights / jnp.maximum(weights.sum(-1, keepdims=True), 1e-6), v)


def essa(p, x, grid):
  q, k, v = (p.linear(x, name) for name in "qkv")
  share = lambda y: (
    (y - y.mean(-1, keepdims=True)) ** 2 / (y.var(-1, keepdims=True) * D + 1e-7)
  )
  q, k = share(q), share(k)
  q = q / jnp.linalg.norm(q, axis=-1, keepdims=True)
  k = k / jnp.linalg.norm(k, axis=1, keepdims=True)
  weights = scores(q[:, :, None], k[:, :, None]) / T**0.5
  return v + mix(weights, v[:, :, None])[:, :, 0]


EQUATIONS = {f.__name__: f for f in (vig, vir, rala, slab, inline, scatterformer, essa)}
OPTIONS = {"scatterformer": dict(window_size=2)}
WITH_A_GRID = [name for name in EQUATIONS if name not in ("vir", "essa")]


def example(name, **attributes):
  mixer = registry.mixer(name)(
    features=D, dtype=jnp.float32, **OPTIONS.get(name, {}), **attributes
  )
  x = jax.random.normal(jax.random.key(0), (2, T, D))
  params = nn.unbox(jax.jit(mixer.init)(jax.random.key(1), x))
  noise = lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape)
  return mixer, jax.tree.map(noise, params), x


@pytest.mark.parametrize(
  "name, grid", [(n, None) for n in EQUATIONS] + [(n, GRID) for n in WITH_A_GRID]
)
def test_it_is_the_equation_of_the_paper(name, grid):
  mixer, params, x = example(name, **({} if grid is None else dict(grid=grid)))

  @jax.jit
  def both(params, x):
    p = Params(params["params"])
    o = EQUATIONS[name](p, x, grid)
    return mixer.apply(params, x)[0], p.linear(o.reshape(2, T, D), "out")

  testing.assert_close(*both(params, x))


def test_the_weights_of_inline_sum_to_one():
  _, params, x = example("inline")
  q, k, _ = Params(params["params"]).heads(x)
  np.testing.assert_allclose(inline_weights(q, k).sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", WITH_A_GRID)
def test_padding_around_an_image_is_not_seen(name):
  """An image of 2 x 3 in the corner of the grid, but for what knows its places."""
  mixer, params, x = example(name, grid=GRID)
  ids = ((ROW < 2) & (COLUMN < 3)).astype(np.int32)
  x = jnp.where(ids[:, None] == 0, jnp.nan, x)
  got, _ = jax.jit(mixer.apply)(params, x, segment_ids=jnp.stack([ids, ids]))
  if name == "slab":
    p = params["params"]
    params = {"params": p | {"key_position": p["key_position"][ids == 1]}}
  small = mixer.clone(grid=(2, 3))
  want, _ = jax.jit(small.apply)(params, x[:, ids == 1])
  testing.assert_close(got[:, ids == 1], want)
  assert not got[:, ids == 0].any()


@pytest.mark.parametrize("name", WITH_A_GRID)
def test_a_sequence_that_is_not_the_grid_is_named(name):
  mixer, params, x = example(name, grid=GRID)
  with pytest.raises(ValueError, match="grid of 3 x 4 needs T = 12; got 11"):
    jax.jit(mixer.apply)(params, x[:, :11])


@pytest.mark.parametrize("name", [n for n in EQUATIONS if n != "essa"])
def test_heads_that_do_not_divide_are_named(name):
  cls = registry.mixer(name)
  with pytest.raises(ValueError, match=f"{cls.__name__} needs num_heads that divide"):
    cls(features=D, num_heads=5)
