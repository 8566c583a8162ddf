import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops, testing

ORACLES = pathlib.Path(__file__).parents[2] / "oracles"
BUDGET = 5e-6

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
DECAYS = {
  "some": lambda x: -np.abs(x),
  "none": lambda x: 0 * x,
  "a step of -200": lambda x: np.where(x > 1.3, -200.0, 0.0),
}


def draw(T, decays="some", B=2, H=2, K=5, V=3, M=4):
  rng = np.random.default_rng(T)
  q, k = rng.normal(size=(2, B, T, H, K))
  v = rng.normal(size=(B, T, H, V))
  w, g = rng.normal(size=(2, B, T, H, M))
  slots = ops.SlotState(rng.normal(size=(B, H, M, K)), rng.normal(size=(B, H, M, V)))
  return jax.tree.map(np.float32, (q, k, v, 0.3 * w, DECAYS[decays](g), slots))


def pack(T):
  ids = np.ones((2, T), np.int32)
  ids[0, :3], ids[0, T // 3 : T // 2], ids[0, T // 2 :] = 0, 2, 5
  ids[1, T // 2 : T // 2 + 4], ids[1, T // 2 + 4 :], ids[1, -4:] = 0, 3, 0
  return ids


@functools.partial(jit, static_argnums=0)
def pull(form, arrays, ids, cotangents):
  """Outputs, the last slots and the gradients of all inputs."""

  def run(*arrays):
    return ops.slot_attention(
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
  normal = lambda x: rng.normal(size=x.shape)
  cotangents = jax.tree.map(normal, (arrays[2], arrays[-1]))
  with jax.enable_x64(True):
    exact = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), arrays)
    want = jax.tree.map(np.asarray, pull("recurrent", exact, ids, cotangents))
  hide = lambda x: np.where((ids == 0)[..., None, None], np.nan, x)
  got = pull("chunked", (*map(hide, arrays[:-1]), arrays[-1]), ids, cotangents)
  for (path, a), b in zip(
    jax.tree_util.tree_flatten_with_path(got)[0], jax.tree.leaves(want)
  ):
    assert np.isfinite(a).all(), jax.tree_util.keystr(path)
    error = np.abs(a - b).max() / max(np.abs(b).max(), 1e-3)
    assert error < BUDGET, f"{jax.tree_util.keystr(path)} is off by {error:.2g}"


@pytest.mark.parametrize("form", ["chunked", "recurrent"])
def test_with_softmax_writes_it_is_abc_of_flash_linear_attention(form):
  oracle = np.load(ORACLES / "fla_abc.npz")  # [B, H, T, K]
  heads = lambda name: jnp.asarray(oracle[name]).swapaxes(1, 2)

  @jax.jit
  def run(q, k, v, s):
    write, log_decay, _ = ops.softmax_writes(s)
    return ops.slot_attention(q, k, v, write, log_decay, implementation=form)[0]

  o, pullback = jax.vjp(run, *map(heads, "qkvs"))
  testing.assert_close(o, heads("o"))
  for name, grad in zip("qkvs", pullback(heads("cot_o"))):
    testing.assert_close(grad, heads(f"grad_{name}"), message=name)


def test_softmax_writes_give_each_slot_the_weighted_mean_of_its_document():
  rng = np.random.default_rng(0)
  s = 20 * rng.normal(size=(2, 40, 2, 4))
  x = rng.normal(size=s.shape)
  ids = pack(40)
  garbage = jnp.where((ids == 0)[..., None, None], jnp.nan, s)
  writes = jax.jit(ops.softmax_writes)(garbage, None, ids)
  write, log_decay, last = map(np.asarray, writes)
  mean, decay = np.zeros((2, 2, 4)), np.exp(log_decay)
  for t in range(40):
    mean = decay[:, t] * mean + write[:, t] * x[:, t]
  for row, document in enumerate((5, 3)):  # The last of each row.
    weights = jax.nn.softmax(s[row][ids[row] == document], axis=0)
    want = np.sum(weights * x[row][ids[row] == document], axis=0)
    np.testing.assert_allclose(mean[row], want, rtol=1e-5, atol=1e-6)
    want = jax.nn.logsumexp(s[row][ids[row] == document], axis=0)
    np.testing.assert_allclose(last[row], want, rtol=1e-6)


def test_a_split_sequence_gives_what_the_whole_gives():
  *tokens, slots = draw(45)
  run = jit(functools.partial(ops.slot_attention, implementation="chunked"))
  whole, last = run(*tokens, initial_state=slots)
  head, between = run(*(x[:, :19] for x in tokens), initial_state=slots)
  tail, got_last = run(*(x[:, 19:] for x in tokens), initial_state=between)
  testing.assert_close(jnp.concatenate([head, tail], axis=1), whole)
  testing.assert_close(got_last, last)


def test_as_many_slots_as_tokens_are_softmax_attention():
  q, k, v, *_ = draw(6)
  write = np.broadcast_to(np.eye(6)[:, None], (2, 6, 2, 6))  # A slot for each token.
  o, _ = ops.slot_attention(q, k, v, write, 0 * write)
  want, _ = ops.softmax_attention(q, k, v)
  np.testing.assert_allclose(o[:, -1], want[:, -1], rtol=1e-4, atol=1e-5)


def test_the_backward_pass_holds_no_slots_for_each_token():
  T, K = 1024, 32
  *tokens, _ = draw(T, B=1, H=1, K=K, V=K, M=K)
  loss = lambda *tokens: jnp.sum(ops.slot_attention(*tokens)[0])
  grad = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3, 4)))
  memory = grad.lower(*tokens).compile().memory_analysis()
  of_all_tokens = 4 * T * 2 * K * K  # Bytes of keys and values.
  assert memory.temp_size_in_bytes < of_all_tokens / 2


def test_wrong_shapes_are_named():
  *tokens, (keys, values) = draw(4)
  with pytest.raises(ValueError, match="slot_attention needs values"):
    ops.slot_attention(*tokens, initial_state=ops.SlotState(keys, values[..., :2]))
  with pytest.raises(ValueError, match="slot_attention needs log_decay"):
    ops.slot_attention(*tokens[:4], tokens[4][:, :3])
