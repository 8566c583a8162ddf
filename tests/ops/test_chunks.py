"""What all matrix-state ops promise, against their recurrent form in float64."""

import functools
import importlib

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies

from jaxseq import ops
from jaxseq.ops import chunks

# Nearly all the time of these tests is compilation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
GATES = {  # By op, the kinds of its gates and their axes.
  "linear_attention": {},
  "scalar_decay": dict(log_decay="BTH"),
  "diagonal_decay": dict(log_decay="BTHK"),
  "signed_scalar_decay": dict(decay="BTH"),
  "signed_diagonal_decay": dict(decay="BTHK"),
  "delta_rule": dict(beta="BTH"),
  "gated_delta_rule": dict(log_decay="BTH", beta="BTH"),
  "channel_delta_rule": dict(log_decay="BTHK", beta="BTH"),
  "decoupled_delta_rule": dict(log_decay="BTHK", erase="BTHK", write="BTHV"),
  "dplr": dict(a="BTHK", b="BTHK", log_decay="BTHK"),
  "splr": dict(p="BTHK", log_decay="BTH", beta="BTH"),
}
DECAYS = {
  "some": lambda rng, shape: -rng.exponential(size=shape),
  "none": lambda rng, shape: np.zeros(shape),
  "a step of -200": lambda rng, shape: np.where(rng.random(shape) < 0.1, -200.0, 0.0),
}
# Largest error of outputs, states and gradients, as a share of the largest value.
BUDGET = {"float32": 3e-6, "bfloat16": 2e-2}
REPEATED_KEYS_BUDGET = 1e-4  # float32: each reflection adds to the error of all others.


def draw(op, T, decays="some", B=2, H=2, K=5, V=3):
  """q, k, v, gates and initial state in float64."""

  def gate(rng, kind, shape):
    if kind == "beta":
      return rng.uniform(0, 2, shape)
    if kind in ("erase", "write"):
      return rng.uniform(0, 1, shape)
    if kind in ("a", "b", "p"):  # Small: the state must not grow.
      return 0.2 * rng.normal(size=shape)
    log_decay = DECAYS[decays](rng, shape)
    return (
      log_decay
      if kind == "log_decay"
      else np.exp(log_decay) * rng.choice([-1, 1], shape)
    )

  rng = np.random.default_rng(T)
  sizes = dict(B=B, T=T, H=H, K=K, V=V)
  normal = lambda axes: rng.normal(size=[sizes[a] for a in axes])
  q, k, v, state = (normal(axes) for axes in ("BTHK", "BTHK", "BTHV", "BHKV"))
  gates = [gate(rng, kind, [sizes[a] for a in GATES[op][kind]]) for kind in GATES[op]]
  if GATES[op].keys() & {"beta", "erase"}:
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
  return q, k, v, *gates, state


def pack(T):
  """Two rows of documents with padding before, between and after."""
  ids = np.ones((2, T), np.int32)
  ids[0, :3], ids[0, T // 3 : T // 2], ids[0, T // 2 :] = 0, 2, 5
  ids[1, T // 2 : T // 2 + 4], ids[1, T // 2 + 4 :], ids[1, -4:] = 0, 3, 0
  return ids


def forms(op):
  return importlib.import_module(getattr(ops, op).__module__).IMPLEMENTATIONS


@functools.partial(jit, static_argnums=(0, 1, 2))
def pull(op, form, chunk_size, arrays, ids, cotangents):
  """Outputs, last state and the gradients of all inputs."""
  del chunk_size  # Only tells compilations apart.

  def run(arrays):
    *tokens, state = arrays
    return getattr(ops, op)(
      *tokens, initial_state=state, segment_ids=ids, implementation=form
    )

  out, pullback = jax.vjp(run, arrays)
  cotangents = jax.tree.map(lambda c, y: c.astype(y.dtype), cotangents, out)
  return out, pullback(cotangents)[0]


def assert_within_budget(op, form, arrays, ids, dtype, budget, chunk_size=None):
  rounded = [np.asarray(jnp.asarray(x, dtype), np.float64) for x in arrays]
  rng = np.random.default_rng(0)
  cotangents = tuple(rng.normal(size=x.shape) for x in (arrays[2], arrays[-1]))
  with jax.enable_x64(True):
    exact = tuple(map(jnp.asarray, rounded))
    want = pull(op, "recurrent", None, exact, ids, cotangents)
    want = jax.tree.map(np.asarray, want)
  if (ids == 0).any():  # What stands at padding is nobody's business.
    garbage = lambda x: np.where(
      (ids == 0).reshape(2, -1, *[1] * (x.ndim - 2)), np.nan, x
    )
    rounded[:-1] = map(garbage, rounded[:-1])
  given = tuple(jnp.asarray(x, dtype) for x in rounded)
  got = pull(op, form, chunk_size, given, ids, cotangents)
  names = ("output", "state"), tuple(f"gradient {i}" for i in range(len(arrays)))
  for name, a, b in zip(*map(jax.tree.leaves, (names, got, want))):
    a = np.asarray(a, np.float64)
    assert np.isfinite(a).all(), f"{name} is not finite"
    error = np.abs(a - b).max() / max(np.abs(b).max(), 1e-3)
    assert error < budget, f"{name} is off by {error:.2g}"


@pytest.mark.parametrize("decays", DECAYS)
@pytest.mark.parametrize("T, chunk_size", [(1, 32), (130, 64)])
@pytest.mark.parametrize("op", GATES)
def test_the_chunked_form_keeps_its_budget(op, T, chunk_size, decays, monkeypatch):
  monkeypatch.setitem(chunks.CHUNK_SIZE, "cpu", chunk_size)
  arrays = draw(op, T, decays)
  for ids in (np.ones((2, T), np.int32), pack(T)):
    assert_within_budget(
      op, "chunked", arrays, ids, "float32", BUDGET["float32"], chunk_size
    )


@pytest.mark.parametrize(
  "op, form",
  [
    (op, form)
    for op in GATES
    for form in forms(op)
    if form != "chunked" and not form.startswith("pallas")  # Those have own tests.
  ],
)
def test_the_other_forms_keep_their_budget(op, form):
  for decays in DECAYS:
    arrays = draw(op, 67, decays)
    assert_within_budget(op, form, arrays, pack(67), "float32", BUDGET["float32"])


@pytest.mark.parametrize("op", GATES)
def test_bfloat16_inputs_keep_their_budget(op):
  arrays, ids = draw(op, 67), pack(67)
  assert_within_budget(op, "chunked", arrays, ids, "bfloat16", BUDGET["bfloat16"])


@pytest.mark.parametrize("chunk_size", [32, 64])
def test_a_key_reflected_at_every_token_keeps_its_budget(chunk_size, monkeypatch):
  monkeypatch.setitem(chunks.CHUNK_SIZE, "cpu", chunk_size)
  q, k, v, _, _, state = draw("gated_delta_rule", 130)
  k[:] = k[:, :1]
  none, two = np.zeros(k.shape[:3]), np.full(k.shape[:3], 2.0)
  assert_within_budget(
    "gated_delta_rule",
    "chunked",
    (q, k, v, none, two, state),
    np.ones((2, 130), np.int32),
    "float32",
    REPEATED_KEYS_BUDGET,
    chunk_size,
  )


@hypothesis.settings(max_examples=8, deadline=None, derandomize=True)
@hypothesis.given(
  op=strategies.sampled_from(sorted(GATES)),
  shape=strategies.tuples(*[strategies.integers(1, most) for most in (3, 40, 3, 9, 9)]),
)
def test_any_shape_will_do(op, shape):
  B, T, H, K, V = shape
  *tokens, state = [
    jnp.asarray(x, jnp.float32) for x in draw(op, T, "some", B, H, K, V)
  ]
  run = jit(getattr(ops, op), static_argnames="implementation")
  o, last = run(*tokens, initial_state=state, implementation="chunked")
  want_o, want_last = run(*tokens, initial_state=state, implementation="recurrent")
  assert o.shape == (B, T, H, V) and last.shape == state.shape
  np.testing.assert_allclose(o, want_o, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(last, want_last, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", GATES)
def test_a_split_sequence_gives_what_the_whole_gives(op):
  *tokens, state = [jnp.asarray(x, jnp.float32) for x in draw(op, 45)]
  run = jit(functools.partial(getattr(ops, op), implementation="chunked"))
  whole, last = run(*tokens, initial_state=state)
  head, between = run(*(x[:, :19] for x in tokens), initial_state=state)
  tail, got_last = run(*(x[:, 19:] for x in tokens), initial_state=between)
  got = jnp.concatenate([head, tail], axis=1)
  np.testing.assert_allclose(got, whole, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(got_last, last, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", GATES)
def test_fewer_heads_are_shared_by_neighbours(op):
  q, k, v, *rest = [jnp.asarray(x, jnp.float32) for x in draw(op, 5, H=4)]
  *gates, state = rest
  run = functools.partial(getattr(ops, op), initial_state=state)
  repeat = lambda x, n: jnp.repeat(x[:, :, :n], 4 // n, axis=2)
  want, _ = run(repeat(q, 2), repeat(k, 1), v, *gates)
  got, _ = run(q[:, :, :2], k[:, :, :1], v, *gates)
  np.testing.assert_array_equal(got, want)
  with pytest.raises(ValueError, match=f"{op} needs k .* H = 3"):
    run(q[:, :, :3], k[:, :, :2], v, *gates)


@pytest.mark.parametrize("op", GATES)
def test_the_backward_pass_holds_no_state_for_each_token(op):
  sizes = dict(B=1, T=32_768, H=16, K=128, V=128)
  shape = lambda axes, dtype: jax.ShapeDtypeStruct([sizes[a] for a in axes], dtype)
  tokens = [shape("BTHK", jnp.bfloat16)] * 3
  tokens += [shape(axes, jnp.float32) for axes in GATES[op].values()]

  def run(cotangent, *tokens):
    o, pullback = jax.vjp(lambda *tokens: getattr(ops, op)(*tokens)[0], *tokens)
    return o, pullback(cotangent)

  memory = jax.jit(run).lower(tokens[0], *tokens).compile().memory_analysis()
  ends = memory.argument_size_in_bytes + memory.output_size_in_bytes
  assert ends + memory.temp_size_in_bytes < 3 * ends


@pytest.mark.parametrize("op", GATES)
def test_a_shape_that_does_not_fit_is_named(op):
  *tokens, state = (jnp.asarray(x) for x in draw(op, 4))
  with pytest.raises(ValueError, match=f"{op} needs initial_state"):
    getattr(ops, op)(*tokens, initial_state=state[:, :1])
  with pytest.raises(ValueError, match=f"{op} needs v"):
    getattr(ops, op)(*tokens[:2], tokens[2][:, :3], *tokens[3:])
  if GATES[op]:
    with pytest.raises(ValueError, match=f"{op} needs {next(iter(GATES[op]))}"):
      getattr(ops, op)(*tokens[:3], tokens[3][:, :3], *tokens[4:])


def test_sums_of_a_segment_do_not_cancel():
  x = jnp.asarray([[1e4, 1e-4, 2e-4, 3e-4]], jnp.float32)
  sums = chunks.segment_sums(x)
  np.testing.assert_allclose(sums[0, 3], [6e-4, 5e-4, 3e-4, 0], rtol=1e-6)
  assert not np.triu(sums[0]).any()
