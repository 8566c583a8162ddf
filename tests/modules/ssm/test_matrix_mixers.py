"""Each mixer against its layer in numpy, with the T x T matrix made entry by entry."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import registry, testing

NAMES = [
  f"{kind}_mixer"
  for kind in (
    *("dense", "toeplitz", "vandermonde", "cauchy", "low_rank"),
    *("semiseparable", "quasiseparable"),
  )
]
H, N, M = 4, 16, 30  # Heads, numbers of a row, and the length that scales stand for.

silu = lambda x: x / (1 + np.exp(-x))
softplus = lambda x: np.logaddexp(x, 0)
identity = lambda x: x


def convolved(p, name, x):
  """Seven taps around each token, zeros beyond the ends."""
  T = len(x)
  x = np.pad(x @ p[name]["kernel"], ((3, 3), (0, 0)))
  y = sum(w * x[n : n + T] for n, w in enumerate(p[f"{name}_conv"]))
  return y + p.get(f"{name}_conv_bias", 0)


def matrix(name, p, x, v):
  """s M + 1 [H, T, T], with all that stands on the diagonal; v is [T, H, V]."""
  T = len(x)

  def numbers(key, shape, activation=identity):
    if key in p and not isinstance(p[key], dict):
      return p[key][:T]  # Not aligned.
    return activation(convolved(p, key, x)).reshape(T, *shape)

  W = np.zeros((H, T, T))
  every = list(np.ndindex(W.shape))
  if name == "dense_mixer":
    if "weights" in p:
      return p["weights"][:, :T, :T] * M**-0.5 + np.eye(T)
    q, k = numbers("q", (H, N)), numbers("k", (H, N))
    for h, i, j in every:
      W[h, i, j] = np.exp(q[i, h] @ k[j, h] * N**-0.5)
    return W / W.sum(axis=2, keepdims=True) + np.eye(T)
  if name == "toeplitz_mixer":
    kernels = numbers("kernels", (H, 2), silu)
    for h, i, j in every:
      W[h, i, j] = kernels[i - j, h, 0] if j <= i else kernels[j - i, h, 1]
    return W * 0.5 * M**-0.5 + np.eye(T)
  if name in ("vandermonde_mixer", "cauchy_mixer", "low_rank_mixer"):
    activation = silu if name == "low_rank_mixer" else identity
    q, k = numbers("q", (H, N), activation), numbers("k", (H, N), activation)
    w = 2 * np.pi * (1e-3 if "q_conv" in p else 1)
    c = 1e-8 + 2 * p.get("bias", 0)
    for h, i, j in every:
      row, column = q[i, h], k[j, h]
      W[h, i, j] = {
        "vandermonde_mixer": np.sum(np.cos(w * row * j) - np.cos(w * column * i)),
        "cauchy_mixer": np.sum(1 / (np.exp(row) + np.exp(column) + c)),
        "low_rank_mixer": row @ column,
      }[name]
    size = 2 * M * N if name == "vandermonde_mixer" else M * N
    return W * size**-0.5 + np.eye(T)
  C, B = np.moveaxis(numbers("CB", (H * N, 2), silu), -1, 0)
  ways = 2 if name == "quasiseparable_mixer" else 1
  dt = x @ p["dt"]["kernel"] if "dt" in p else np.zeros((T, ways * H))
  dt = softplus(dt.reshape(T, ways, H) + p["dt_bias"])
  for h, i, j in every:
    A = np.exp(p["A_log"][h])
    if name == "semiseparable_mixer":
      between = dt[j + 1 : i + 1, 0, h]
      W[h, i, j] = C[i] @ B[j] * dt[j, 0, h] * np.exp(-A * between.sum()) * (j <= i)
      W[h, i, j] += (i == j) * p["D"][h]
    elif i == j:
      W[h, i, j] = v[i].ravel() @ p["D_input"]["kernel"][:, h] + p["D"][h]
    else:
      n, reader = (0, i - 1) if j < i else (1, i + 1)
      between = dt[j + 1 : i, 0, h] if n == 0 else dt[i + 1 : j, 1, h]
      W[h, i, j] = C[reader] @ B[j] * dt[j, n, h] * np.exp(-A * between.sum())
  return W


def layer(name, p, x):
  T = len(x)
  v = silu(convolved(p, "v", x)).reshape(T, H, -1)
  o = np.einsum("hij,jhv->ihv", matrix(name, p, x, v), v).reshape(T, -1)
  o /= np.sqrt(np.mean(o**2, axis=1, keepdims=True) + 1e-5)
  o *= p["norm"]["scale"] * silu(x @ p["z"]["kernel"])
  return o @ p["out"]["kernel"]


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_it_mixes_documents_by_its_matrix(name, aligned):
  mixer = registry.mixer(name)(
    features=32, aligned=aligned, max_length=M, dtype=jnp.float32
  )
  params, x = testing.example(mixer)
  ids = np.ones(x.shape[:2], np.int32)
  ids[0, :2], ids[0, 9:], ids[1, -4:] = 0, 2, 0
  garbage = jnp.where(ids[..., None] == 0, jnp.nan, x)
  y, _ = jax.jit(mixer.apply)(params, garbage, segment_ids=ids)
  wide = lambda a: np.asarray(a, np.float64)
  p, x = jax.tree.map(wide, (nn.unbox(params)["params"], x))
  want = np.zeros(x.shape)
  for row, number in ((0, 1), (0, 2), (1, 1)):
    tokens = ids[row] == number
    want[row, tokens] = layer(name, p, x[row, tokens])
  testing.assert_close(y, want)


def test_a_matrix_of_parameters_refuses_longer_documents():
  mixer = registry.mixer("low_rank_mixer")(features=32, aligned=False, max_length=8)
  with pytest.raises(ValueError, match="max_length of at least the 9 tokens"):
    mixer.init(jax.random.key(0), jnp.zeros((1, 9, 32)))


def test_heads_that_do_not_divide_are_named():
  with pytest.raises(ValueError, match="ToeplitzMixer needs num_heads that divide"):
    registry.mixer("toeplitz_mixer")(features=32, num_heads=5)
