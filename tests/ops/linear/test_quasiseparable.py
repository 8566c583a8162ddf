"""The quasiseparable mixer against its T x T matrix, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops
from jaxseq.ops.linear import quasiseparable

B, H, G, K, V = 2, 2, 1, 5, 3
FORMS = sorted(quasiseparable.IMPLEMENTATIONS)
DECAYS = {
  "some": lambda rng, shape: -rng.exponential(size=shape),
  "none": lambda rng, shape: np.zeros(shape),
  "a step of -200": lambda rng, shape: np.where(rng.random(shape) < 0.1, -200.0, 0.0),
}
BUDGET = 3e-6  # Of float32, as a share of the largest value.


def draw(T, decays="some"):
  rng = np.random.default_rng(T)
  q, k = rng.normal(size=(2, B, T, 2, G, K))
  v, diagonal = rng.normal(size=(B, T, H, V)), rng.normal(size=(B, T, H))
  return q, k, v, DECAYS[decays](rng, (B, T, 2, H)), diagonal


def pack(T):
  """Documents side by side, and with padding before, between and after."""
  ids = np.ones((B, T), np.int32)
  ids[0, :3], ids[0, T // 3 : T // 2], ids[0, T // 2 :] = 0, 2, 5
  ids[1, T // 2 : T // 2 + 4], ids[1, T // 2 + 4 :], ids[1, -4:] = 0, 3, 0
  return ids


def matrix(ids, q, k, v, log_decay, diagonal):
  """M [B, H, T, T], entry by entry."""
  T = v.shape[1]
  M = np.zeros((B, H, T, T))
  for b, h, i, j in np.ndindex(M.shape):
    if ids[b, i] != ids[b, j] or ids[b, i] == 0:
      continue
    if i == j:
      M[b, h, i, j] = diagonal[b, i, h]
      continue
    n, reader = (0, i - 1) if j < i else (1, i + 1)
    between = log_decay[b, j + 1 : i, 0, h] if n == 0 else log_decay[b, i + 1 : j, 1, h]
    M[b, h, i, j] = q[b, reader, n, 0] @ k[b, j, n, 0] * np.exp(between.sum())
  return M


# Nearly all the time of these tests is compilation.
jit = functools.partial(
  jax.jit,
  static_argnums=0,
  compiler_options={"xla_backend_optimization_level": 0},
)


def mix(form, arrays, ids):
  return ops.quasiseparable(*arrays, segment_ids=ids, scale=1.0, implementation=form)


run = jit(mix)


@jit
def pull(form, arrays, ids, cotangent):
  """Outputs, and the gradients of all inputs."""
  o, pullback = jax.vjp(lambda *a: mix(form, a, ids), *arrays)
  return o, pullback(cotangent.astype(o.dtype))


def error(got, want):
  return np.abs(np.asarray(got) - want).max() / np.abs(want).max()


def low(arrays):
  return tuple(jnp.asarray(x, jnp.float32) for x in arrays)


@pytest.mark.parametrize(
  "T, packed, forms", [(1, False, ["auto"]), (45, False, ["auto"]), (45, True, FORMS)]
)
def test_every_form_is_the_matrix_times_the_values(T, packed, forms):
  ids = pack(T) if packed else None
  for decays in DECAYS:
    arrays = draw(T, decays)
    whole = pack(T) if packed else np.ones((B, T), int)
    want = np.einsum("bhij,bjhv->bihv", matrix(whole, *arrays), arrays[2])
    for form in forms:
      assert error(run(form, low(arrays), ids), want) < BUDGET, (decays, form)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_the_definition_in_float64(form):
  arrays, ids = draw(45), pack(45)
  cotangent = np.random.default_rng(0).normal(size=arrays[2].shape)
  with jax.enable_x64():
    want = pull("recurrent", arrays, ids, cotangent)[1]
    want = [np.asarray(g) for g in want]
  # What stands at padding is nobody's business.
  hole = lambda x: np.where((ids == 0).reshape(B, 45, *[1] * (x.ndim - 2)), np.nan, x)
  got = pull(form, low(map(hole, arrays)), ids, np.float32(cotangent))[1]
  assert max(map(error, got, want)) < BUDGET


def test_without_decays_all_other_tokens_count_alike():
  q, k = np.ones((2, 1, 7, 2, 1, 1), np.float32)
  v = np.random.default_rng(0).normal(size=(1, 7, 1, 2)).astype(np.float32)
  o = ops.quasiseparable(q, k, v, np.zeros((1, 7, 2, 1)), -np.ones((1, 7, 1)))
  np.testing.assert_allclose(o, v.sum(axis=1, keepdims=True) - 2 * v, atol=1e-5)


def test_wrong_shapes_are_named():
  q, k, v, log_decay, diagonal = low(draw(4))
  with pytest.raises(ValueError, match="quasiseparable needs log_decay"):
    ops.quasiseparable(q, k, v, log_decay[:, :3], diagonal)
  with pytest.raises(ValueError, match=r"q \[B, T, 2, G, K\]"):
    ops.quasiseparable(q[:, :, :1], k[:, :, :1], v, log_decay[:, :, :1], diagonal)
