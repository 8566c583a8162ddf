import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops
from jaxseq.ops import chunks

ORACLE = pathlib.Path(__file__).parents[2] / "oracles" / "fla_mesa_net.npz"
NAMES = ("q", "k", "v", "g", "beta", "lamb")
# Largest error of outputs, states and gradients, as a share of the largest value.
BUDGET = {"float32": 3e-6, "bfloat16": 2e-2}


@functools.partial(jax.jit, static_argnums=0)
def pull(form, arrays, state, ids, cotangents):
  """Outputs, last state and the gradients of all inputs."""

  def run(arrays, state):
    return ops.mesa(*arrays, initial_state=state, segment_ids=ids, implementation=form)

  out, pullback = jax.vjp(run, arrays, state)
  cotangents = jax.tree.map(lambda c, y: c.astype(y.dtype), cotangents, out)
  return out, pullback(cotangents)


def draw(T, decay=True, K=5, V=3):
  """q, k, v, log decay, beta, ridge; a state; and two rows of packed documents."""
  rng = np.random.default_rng(T)
  q, k = rng.normal(size=(2, 2, T, 2, K))
  k /= np.linalg.norm(k, axis=-1, keepdims=True)
  g = np.where(rng.random((2, T, 2)) < 0.1, -200.0, -0.1 * rng.random((2, T, 2)))
  v, beta = rng.normal(size=(2, T, 2, V)), rng.uniform(0, 1, (2, T, 2))
  arrays = q, k, v, g if decay else None, beta, rng.uniform(0.25, 1, (2, K))
  root = rng.normal(size=(2, 2, K, K))
  state = ops.MesaState(root @ root.swapaxes(2, 3), rng.normal(size=(2, 2, K, V)))
  ids = np.ones((2, T), np.int32)
  ids[0, :3], ids[0, T // 2 :], ids[1, T // 3 : T // 2] = 0, 2, 0
  return arrays, state, ids


def assert_within_budget(form, T, dtype="float32", decay=True):
  arrays, state, ids = draw(T, decay)
  cotangents = np.cos(arrays[2]), jax.tree.map(np.sin, state)
  kinds = (dtype,) * 3 + ("float32",) * 3
  given = tuple(x if x is None else jnp.asarray(x, d) for x, d in zip(arrays, kinds))
  given = given, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), state)
  with jax.enable_x64(True):
    exact = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), given)
    want = jax.tree.map(np.asarray, pull("recurrent", *exact, ids, cotangents))
  (*tokens, ridge), state = given  # What stands at padding is nobody's business.
  real = lambda x: (ids != 0).reshape(2, T, *[1] * (x.ndim - 2))
  tokens = jax.tree.map(lambda x: jnp.where(real(x), x, jnp.nan), tokens)
  got = pull(form, (*tokens, ridge), state, ids, cotangents)
  paths = jax.tree_util.tree_leaves_with_path(got)
  for (path, a), b in zip(paths, jax.tree.leaves(want)):
    a, name = np.asarray(a, np.float64), jax.tree_util.keystr(path)
    assert np.isfinite(a).all(), f"{name} is not finite"
    error = np.abs(a - b).max() / np.abs(b).max()
    assert error < BUDGET[dtype], f"{name} is off by {error:.2g}"


@pytest.mark.parametrize("form", ["chunked", "recurrent"])
def test_it_is_that_of_flash_linear_attention_with_its_gradients(form):
  oracle = {name: jnp.asarray(x) for name, x in np.load(ORACLE).items()}
  state = ops.MesaState(oracle["h_kk0"], oracle["h_kv0"])
  ids = jnp.ones(oracle["q"].shape[:2], jnp.int32)
  cotangents = oracle["cot_o"], jax.tree.map(jnp.zeros_like, state)
  arrays = tuple(oracle[name] for name in NAMES)
  (o, last), (grads, _) = pull(form, arrays, state, ids, cotangents)
  names = "o", "h_kk", "h_kv", *(f"grad_{name}" for name in NAMES)
  for name, got in zip(names, (o, *last, *grads)):
    want = oracle[name]
    np.testing.assert_allclose(got, want, atol=1e-6 * np.abs(want).max(), err_msg=name)


@pytest.mark.parametrize(
  "T, dtype", [(1, "float32"), (77, "float32"), (77, "bfloat16")]
)
def test_the_chunked_form_keeps_its_budget(T, dtype, monkeypatch):
  monkeypatch.setitem(chunks.CHUNK_SIZE, "cpu", 16)
  assert_within_budget("chunked", T, dtype)


@pytest.mark.parametrize("form", ["chunked", "sherman_morrison"])
def test_without_decay_all_forms_keep_their_budget(form):
  assert_within_budget(form, 45, decay=False)


def test_a_decay_is_beyond_sherman_and_morrison():
  arrays, state, ids = draw(5)
  with pytest.raises(NotImplementedError, match="sherman_morrison .* no log_decay"):
    ops.mesa(*map(jnp.asarray, arrays), implementation="sherman_morrison")


def test_a_heavy_ridge_leaves_linear_attention():
  """(A + r I)^-1 q -> q / r."""
  q, k, v, g, beta, _ = (jnp.asarray(x, jnp.float32) for x in draw(23)[0])
  heavy = 1e4
  got, _ = ops.mesa(q, k, v, g, beta, jnp.full((2, 5), heavy))
  want, _ = ops.scalar_decay(q, k, beta[..., None] * v, g, scale=1.0)
  np.testing.assert_allclose(heavy * got, want, atol=5e-3 * np.abs(want).max())


def test_a_light_ridge_recalls_every_value():
  """Where linear attention adds the values of keys that are not orthogonal."""
  _, k, v, _, beta, _ = (jnp.asarray(x, jnp.float32) for x in draw(5)[0])
  light = jnp.full((2, 5), 1e-5)
  _, state = ops.mesa(k, k, v, None, beta, light)
  got, _ = ops.mesa(k, k, v, None, 0 * beta, light, initial_state=state)
  np.testing.assert_allclose(got, v, atol=0.02)


def test_the_square_of_a_small_gradient_may_underflow():
  arrays, state, ids = draw(9)
  given = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (arrays, state))
  of_size = lambda s: (s * np.cos(arrays[2]), jax.tree.map(lambda x: 0 * x, state))
  _, want = pull("chunked", *given, ids, of_size(1.0))
  _, got = pull("chunked", *given, ids, of_size(2.0**-80))
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
    np.testing.assert_allclose(a * 2.0**80, b, rtol=1e-6, atol=1e-6)


def test_the_backward_pass_holds_no_state_for_each_token():
  shape = lambda *sizes, dtype=jnp.float32: jax.ShapeDtypeStruct(sizes, dtype)
  tokens = [shape(1, 32_768, 16, 128, dtype=jnp.bfloat16)] * 3
  tokens += [shape(1, 32_768, 16)] * 2 + [shape(16, 128)]

  def run(cotangent, *tokens):
    o, pullback = jax.vjp(lambda *tokens: ops.mesa(*tokens)[0], *tokens)
    return o, pullback(cotangent)

  memory = jax.jit(run).lower(tokens[0], *tokens).compile().memory_analysis()
  ends = memory.argument_size_in_bytes + memory.output_size_in_bytes
  assert ends + memory.temp_size_in_bytes < 3 * ends


def test_a_shape_that_does_not_fit_is_named():
  (q, k, v, g, beta, ridge), state, _ = draw(4)
  with pytest.raises(ValueError, match="mesa needs ridge .* K = 5"):
    ops.mesa(q, k, v, g, beta, ridge[:, :4])
  with pytest.raises(ValueError, match="mesa needs initial_state.B .* V = 3"):
    ops.mesa(q, k, v, g, beta, ridge, initial_state=ops.MesaState(state.A, state.A))
