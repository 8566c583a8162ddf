import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops, testing

ORACLES = pathlib.Path(__file__).parents[2] / "oracles"
BUDGET = 5e-6  # float32, where a gate of 60 is only known to 4e-6.

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
GATES = {  # Input and forget gates from standard normal draws.
  "some": lambda i, f: (2 * i, -np.logaddexp(0, -3 * f)),
  "input gates of 60": lambda i, f: (np.where(i > 1, 60.0, -60.0), -np.abs(f)),
  "nothing forgotten or all": lambda i, f: (5 * i, np.where(f > 1.3, -200.0, 0.0)),
  "input gates that fall": lambda i, f: (
    40 - np.arange(i.shape[1])[:, None] + i,
    -np.abs(f),
  ),
}


def draw(T, gates="some", B=2, H=2, K=5, V=3):
  rng = np.random.default_rng(T)
  q, k = np.abs(rng.normal(size=(2, B, T, H, K)))  # The normaliser does not cancel.
  v = rng.normal(size=(B, T, H, V))
  i, f = GATES[gates](*rng.normal(size=(2, B, T, H)))
  C, n = rng.normal(size=(B, H, K, V)), rng.normal(size=(B, H, K))
  arrays = q, k, v, i, f, ops.MLSTMState(C, np.abs(n), np.full((B, H), 3.0))
  return jax.tree.map(np.float32, arrays)


def pack(T):
  ids = np.ones((2, T), np.int32)
  ids[0, :3], ids[0, T // 3 : T // 2], ids[0, T // 2 :] = 0, 2, 5
  ids[1, T // 2 : T // 2 + 4], ids[1, T // 2 + 4 :], ids[1, -4:] = 0, 3, 0
  return ids


@functools.partial(jit, static_argnums=0)
def pull(form, arrays, ids, cotangents):
  """h, the last state and the gradients of all inputs."""

  def run(arrays):
    *tokens, state = arrays
    return ops.mlstm(*tokens, initial_state=state, segment_ids=ids, implementation=form)

  out, pullback = jax.vjp(run, arrays)
  cast = lambda c, y: jnp.asarray(c).astype(y.dtype)
  return out, pullback(jax.tree.map(cast, cotangents, out))[0]


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("form", ["chunked", "parallel"])
def test_the_forms_keep_their_budget_against_float64(form, gates):
  T = 67
  arrays = draw(T, gates)
  rng = np.random.default_rng(0)
  normal = lambda x: rng.normal(size=x.shape)
  cotangents = jax.tree.map(normal, (arrays[2], arrays[-1]))
  ids = pack(T)
  with jax.enable_x64(True):
    exact = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), arrays)
    want = jax.tree.map(np.asarray, pull("recurrent", exact, ids, cotangents))
  hide = lambda x: np.where((ids == 0).reshape(2, T, *[1] * (x.ndim - 2)), np.nan, x)
  got = pull(form, (*map(hide, arrays[:-1]), arrays[-1]), ids, cotangents)
  for (path, a), b in zip(
    jax.tree_util.tree_flatten_with_path(got)[0], jax.tree.leaves(want)
  ):
    assert np.isfinite(a).all(), jax.tree_util.keystr(path)
    error = np.abs(a - b).max() / max(np.abs(b).max(), 1e-3)
    assert error < BUDGET, f"{jax.tree_util.keystr(path)} is off by {error:.2g}"


@pytest.mark.parametrize("form", ["chunked", "parallel", "recurrent"])
def test_it_is_the_cell_of_the_authors(form):
  oracle = np.load(ORACLES / "xlstm_mlstm_parallel.npz")  # [B, H, T, K]
  heads_last = lambda name: jnp.asarray(oracle[name]).swapaxes(1, 2)
  q, k, v, i, f = map(heads_last, ("q", "k", "v", "igate_preact", "fgate_preact"))

  @jax.jit
  def run(q, k, v, i, f):
    f = jax.nn.log_sigmoid(f[..., 0])
    return ops.mlstm(q, k, v, i[..., 0], f, implementation=form)

  h, state = run(q, k, v, i, f)
  testing.assert_close(h, heads_last("h"), message="h ")
  unscaled = lambda S, m: S * np.exp(m).reshape(*S.shape[:2], *[1] * (S.ndim - 2))
  C = oracle["c_last"] * 8**0.5  # Its scale is that of the keys.
  got = unscaled(state.C, state.m)
  testing.assert_close(got, unscaled(C, oracle["m_last"]), message="C ")
  grad = jax.grad(lambda *x: jnp.sum(run(*x)[0] * heads_last("cot_h")), range(5))
  for name, x in zip(("q", "k", "v", "igate_preact"), grad(q, k, v, i, f)):
    testing.assert_close(x, heads_last(f"grad_{name}"), message=f"gradient of {name} ")


def test_a_split_sequence_gives_what_the_whole_gives():
  *tokens, state = draw(45, "input gates that fall")
  run = jit(functools.partial(ops.mlstm, implementation="chunked"))
  whole, last = run(*tokens, initial_state=state)
  head, between = run(*(x[:, :19] for x in tokens), initial_state=state)
  tail, got_last = run(*(x[:, 19:] for x in tokens), initial_state=between)
  testing.assert_close(jnp.concatenate([head, tail], axis=1), whole)
  testing.assert_close(got_last, last)


def test_the_scale_of_a_state_does_not_matter():
  *tokens, (C, n, m) = draw(9)
  other = ops.MLSTMState(C * np.exp(8), n * np.exp(8), m - 8)
  h, _ = ops.mlstm(*tokens, initial_state=ops.MLSTMState(C, n, m))
  got, _ = ops.mlstm(*tokens, initial_state=other)
  testing.assert_close(got, h)


def test_wrong_shapes_are_named():
  *tokens, (C, n, m) = draw(4)
  with pytest.raises(ValueError, match="mlstm needs n "):
    ops.mlstm(*tokens, initial_state=ops.MLSTMState(C, n[:, :1], m))
  with pytest.raises(ValueError, match="mlstm needs log_forget_gate"):
    ops.mlstm(*tokens[:4], tokens[4][:, :3])
