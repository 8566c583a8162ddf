import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops

ORACLES = pathlib.Path(__file__).parents[2] / "oracles"
BUDGET = 3e-6

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
DECAYS = {
  "some": lambda x: -np.abs(x),
  "none": lambda x: 0 * x,
  "a step of -200": lambda x: np.where(x > 1.3, -200.0, 0.0),
}


def draw(T, decays="some", B=2, H=2, K=5, V=3):
  rng = np.random.default_rng(T)
  r, k, g = rng.normal(size=(3, B, T, H, K))
  v, u = rng.normal(size=(B, T, H, V)), rng.normal(size=(H, K))
  arrays = r, k, v, DECAYS[decays](g), u, rng.normal(size=(B, H, K, V))
  return [np.float32(x) for x in arrays]


def pack(T):
  ids = np.ones((2, T), np.int32)
  ids[0, :3], ids[0, T // 3 : T // 2], ids[0, T // 2 :] = 0, 2, 5
  ids[1, T // 2 : T // 2 + 4], ids[1, T // 2 + 4 :], ids[1, -4:] = 0, 3, 0
  return ids


@functools.partial(jit, static_argnums=0)
def pull(form, arrays, ids, cotangents):
  """Outputs, the last state and the gradients of all inputs."""

  def run(*arrays):
    return ops.time_mix(
      *arrays[:-1], initial_state=arrays[-1], segment_ids=ids, implementation=form
    )

  out, pullback = jax.vjp(run, *arrays)
  cast = lambda c, y: jnp.asarray(c).astype(y.dtype)
  return out, pullback(jax.tree.map(cast, cotangents, out))


@pytest.mark.parametrize("decays", DECAYS)
def test_the_chunked_form_keeps_its_budget_against_float64(decays):
  T = 67
  arrays, ids = draw(T, decays), pack(T)
  rng = np.random.default_rng(0)
  cotangents = tuple(rng.normal(size=x.shape) for x in (arrays[2], arrays[-1]))
  with jax.enable_x64(True):
    exact = [jnp.asarray(x, jnp.float64) for x in arrays]
    want = jax.tree.map(np.asarray, pull("recurrent", exact, ids, cotangents))
  hide = lambda x: np.where((ids == 0)[..., None, None], np.nan, x)
  got = pull("chunked", [*map(hide, arrays[:4]), *arrays[4:]], ids, cotangents)
  for (path, a), b in zip(
    jax.tree_util.tree_flatten_with_path(got)[0], jax.tree.leaves(want)
  ):
    assert np.isfinite(a).all(), jax.tree_util.keystr(path)
    error = np.abs(a - b).max() / max(np.abs(b).max(), 1e-3)
    assert error < BUDGET, f"{jax.tree_util.keystr(path)} is off by {error:.2g}"


@pytest.mark.parametrize("form", ["chunked", "recurrent"])
def test_it_gives_the_numbers_of_flash_linear_attention(form):
  oracle = np.load(ORACLES / "fla_rwkv6.npz")  # [B, H, T, K]
  heads = lambda name: jnp.asarray(oracle[name]).swapaxes(1, 2)
  arrays = *map(heads, "qkvw"), jnp.asarray(oracle["u"]), jnp.asarray(oracle["h0"])
  cotangents = heads("cot_o"), jnp.asarray(oracle["cot_final_state"])
  (o, state), grads = pull(form, arrays, np.ones(arrays[0].shape[:2]), cotangents)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
  close(o, heads("o"))
  close(state, oracle["final_state"])
  for name, grad in zip("qkvw", grads):
    close(grad, heads(f"grad_{name}"))
  close(grads[5], oracle["grad_h0"])


def test_a_split_sequence_gives_what_the_whole_gives():
  *tokens, u, state = draw(45)
  run = jit(functools.partial(ops.time_mix, implementation="chunked"))
  whole, last = run(*tokens, u, initial_state=state)
  head, between = run(*(x[:, :19] for x in tokens), u, initial_state=state)
  tail, got_last = run(*(x[:, 19:] for x in tokens), u, initial_state=between)
  got = jnp.concatenate([head, tail], axis=1)
  np.testing.assert_allclose(got, whole, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(got_last, last, rtol=1e-4, atol=1e-5)


def test_a_bonus_of_one_without_decay_is_linear_attention():
  r, k, v, g, u, state = draw(21, "none")
  got = ops.time_mix(r, k, v, g, 0 * u + 1, initial_state=state)
  want = ops.linear_attention(r, k, v, initial_state=state)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), got, want)


def test_wrong_shapes_are_named():
  *tokens, u, _ = draw(4)
  with pytest.raises(ValueError, match="time_mix needs bonus"):
    ops.time_mix(*tokens, u[:, :3])
