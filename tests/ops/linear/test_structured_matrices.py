"""Mixing by structured matrices, against these matrices entry by entry in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops
from jaxseq.ops.linear import structured_matrices

B, H, N, V = 2, 2, 3, 4
T = 45
OPS = {
  "dense": ops.dense_matrix,
  "toeplitz": ops.toeplitz_matrix,
  "vandermonde": ops.vandermonde_matrix,
  "cauchy": ops.cauchy_matrix,
}
CASES = [
  (op, form)
  for op in OPS
  for form in sorted(structured_matrices.IMPLEMENTATIONS)
  if form != "fft"
] + [("toeplitz", "fft")]
# Of float32, as a share of the largest value.
BUDGET = 3e-6

# Nearly all the time of these tests is compilation.
jit = functools.partial(
  jax.jit,
  static_argnums=(0, 1),
  compiler_options={"xla_backend_optimization_level": 0},
)


def draw(op):
  rng = np.random.default_rng(0)
  v = rng.normal(size=(B, T, H, V))
  if op == "dense":
    return v, rng.normal(size=(H, T + 3, T + 3))
  if op == "toeplitz":
    return v, *rng.normal(size=(2, B, T, H))
  return v, *rng.normal(size=(2, B, T, H, N))


def pack():
  """Documents side by side, and with padding before, between and after."""
  ids = np.ones((B, T), np.int32)
  ids[0, :3], ids[0, T // 3 : T // 2], ids[0, T // 2 :] = 0, 2, 5
  ids[1, T // 2 : T // 2 + 4], ids[1, T // 2 + 4 :], ids[1, -4:] = 0, 3, 0
  return ids


def entry(op, i, j, b, h, start, arrays):
  """M_ij of the document that begins at `start` of row b."""
  if op == "dense":
    return arrays[0][h, i, j]
  if op == "toeplitz":
    left, right = (x[b, start:, h] for x in arrays)
    return left[i - j] if j <= i else right[j - i]
  q, k = (x[b, start:, h] for x in arrays)
  if op == "vandermonde":
    return np.sum(np.cos(q[i] * j) - np.cos(k[j] * i))
  return np.sum(1 / (np.exp(q[i]) + np.exp(k[j]) + 1e-8))


def dense(op, ids, v, *arrays):
  o = np.zeros(v.shape)
  for b, h in np.ndindex(B, H):
    for number in set(ids[b]) - {0}:
      tokens = np.flatnonzero(ids[b] == number)
      M = np.zeros((len(tokens), len(tokens)))
      for i, j in np.ndindex(M.shape):
        M[i, j] = entry(op, i, j, b, h, tokens[0], arrays)
      o[b, tokens, h] = M @ v[b, tokens, h]
  return o


def mix(op, form, ids, arrays):
  return OPS[op](*arrays, segment_ids=ids, implementation=form)


@jit
def pull(op, form, ids, arrays, cotangent):
  """Outputs, and the gradients of all inputs."""
  o, pullback = jax.vjp(functools.partial(mix, op, form, ids), arrays)
  return o, pullback(cotangent.astype(o.dtype))[0]


def error(got, want):
  return np.abs(np.asarray(got) - want).max() / np.abs(want).max()


def low(arrays):
  return tuple(jnp.asarray(x, jnp.float32) for x in arrays)


def holes(ids, arrays):
  """NaN at padding, which is nobody's business."""
  whose = lambda x: x.shape[:2] == ids.shape
  at = lambda x: (ids == 0).reshape(B, T, *[1] * (x.ndim - 2))
  return [np.where(at(x), np.nan, x) if whose(x) else x for x in arrays]


@functools.cache
def exact(op, packed):
  """Outputs by the matrix, and the gradients of the definition in float64."""
  arrays, ids = draw(op), pack() if packed else np.ones((B, T), int)
  with jax.enable_x64():
    cotangent = np.random.default_rng(1).normal(size=arrays[0].shape)
    args = op, "recurrent", pack() if packed else None, arrays, cotangent
    grads = [np.asarray(g) for g in pull(*args)[1]]
  return dense(op, ids, *arrays), grads, cotangent


@pytest.mark.parametrize("op, form", CASES)
def test_every_form_is_the_matrix_times_the_values(op, form, monkeypatch):
  monkeypatch.setattr(structured_matrices, "BLOCK_SIZE", 16)
  packed = form != "fft"
  ids = pack() if packed else None
  arrays = holes(ids, draw(op)) if packed else draw(op)
  want, want_grads, cotangent = exact(op, packed)
  got, grads = pull(op, form, ids, low(arrays), np.float32(cotangent))
  assert error(got, want) < BUDGET
  assert max(map(error, grads, want_grads)) < BUDGET


@pytest.mark.parametrize("op", OPS)
def test_a_row_of_one_document_is_mixed_whole(op):
  arrays = draw(op)
  want = dense(op, np.ones((B, T), int), *arrays)
  assert error(jit(mix)(op, "auto", None, low(arrays)), want) < BUDGET


def test_equal_weights_of_all_distances_give_the_sum():
  ones = jnp.ones((1, 100, 1))
  v = jnp.asarray(np.random.default_rng(0).normal(size=(1, 100, 1, 2)), jnp.float32)
  o = ops.toeplitz_matrix(v, ones, ones, implementation="fft")
  np.testing.assert_allclose(o, jnp.broadcast_to(v.sum(1), o[0].shape)[None], atol=1e-4)


def test_calls_that_cannot_run_say_why():
  v, q, k = low(draw("cauchy"))
  with pytest.raises(ValueError, match="cauchy_matrix needs k"):
    ops.cauchy_matrix(v, q, k[:, 1:])
  with pytest.raises(ValueError, match="M >= T = 45 tokens; got 44"):
    ops.dense_matrix(v, jnp.ones((H, 44, 44)))
  with pytest.raises(NotImplementedError, match="not a Toeplitz matrix"):
    ops.cauchy_matrix(v, q, k, implementation="fft")
  with pytest.raises(NotImplementedError, match="one document a row"):
    kernel = q[..., 0]
    ids = jnp.asarray(pack())
    ops.toeplitz_matrix(v, kernel, kernel, segment_ids=ids, implementation="fft")
