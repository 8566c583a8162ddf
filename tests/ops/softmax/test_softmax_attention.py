import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.test_util import check_grads

from jaxseq import ops, testing
from jaxseq.ops import dispatch, kv_cache
from jaxseq.ops.softmax import softmax_attention as module

ORACLES = pathlib.Path(__file__).parents[2] / "oracles"
FORMS = ("recurrent", "parallel", "blockwise")
B, T, H, G, K, V = 2, 21, 4, 2, 6, 5

# Ids that come back later, padding before, between and after, a row of padding alone.
IDS = np.zeros((B, T), np.int32)
IDS[0, 2:9], IDS[0, 9:12], IDS[0, 14:19] = 3, 1, 3

CASES = {
  "causal": dict(),
  "window": dict(window=5),
  "window_of_one": dict(window=1),
  "both_ways": dict(causal=False),
  "packed": dict(segment_ids=IDS),
  "packed_window": dict(segment_ids=IDS, window=3),
  "packed_both_ways": dict(segment_ids=IDS, causal=False),
  "scaled": dict(scale=-1.5),
}

attention = jax.jit(
  ops.softmax_attention,
  static_argnames=("causal", "window", "scale", "implementation"),
)

# Largest error against float64, as a share of the largest output.
BUDGETS = {"float32": 2e-6, "bfloat16": 1e-2, "float64": 1e-14}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
  monkeypatch.setattr(module, "BLOCK_SIZE", 8)


def inputs(dtype="float32", size=1.0, length=T):
  rng = np.random.default_rng(0)
  shapes = (B, length, H, K), (B, length, G, K), (B, length, G, V)
  return [jnp.asarray(size * rng.normal(size=s), dtype) for s in shapes]


def definition(q, k, v, causal=True, window=None, segment_ids=None, scale=None):
  """Token by token in numpy float64; no code in common with the op."""
  q, k, v = (np.asarray(x).astype(np.float64) for x in (q, k, v))
  scale = q.shape[-1] ** -0.5 if scale is None else scale
  o = np.zeros((*q.shape[:3], v.shape[-1]))
  for b, t, h in np.ndindex(q.shape[:3]):
    ids = np.ones(k.shape[1]) if segment_ids is None else segment_ids[b]
    real = np.flatnonzero(ids)
    if segment_ids is not None and ids[t] == 0:
      continue
    first = t
    while first > 0 and ids[first - 1] == ids[t]:
      first -= 1
    end = t + 1 if causal else k.shape[1]
    begin = first if window is None else max(first, t - window + 1)
    if segment_ids is None and not causal:
      begin = 0
    seen = [s for s in real if begin <= s < end and ids[s] == ids[t]]
    if segment_ids is not None:  # The same id further on is another document.
      seen = [s for s in seen if np.all(ids[min(s, t) : max(s, t)] == ids[t])]
    group = h * k.shape[2] // q.shape[2]
    scores = scale * k[b, seen, group] @ q[b, t, h]
    weights = np.exp(scores - scores.max())
    o[b, t, h] = weights @ v[b, seen, group] / weights.sum()
  return o


def error(got, want):
  got = np.asarray(got).astype(np.float64)
  assert np.isfinite(got).all()
  return np.abs(got - want).max() / np.abs(want).max()


@pytest.mark.parametrize(
  "dtype, case",
  [("float32", case) for case in CASES]
  + [
    (d, case)
    for d in ("bfloat16", "float64")
    for case in ("both_ways", "packed_window")
  ],
)
@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_the_definition(form, case, dtype):
  with jax.enable_x64(dtype == "float64"):
    args = inputs(dtype)
    o, state = attention(*args, **CASES[case], implementation=form)
    assert o.dtype == dtype and state is None
    assert error(o, definition(*args, **CASES[case])) < BUDGETS[dtype]


@pytest.mark.parametrize("form", FORMS)
def test_scores_far_apart_and_far_from_zero_do_no_harm(form):
  q, k, v = inputs(size=40.0)  # Scores of up to thousands.
  o, _ = attention(q, k, v, implementation=form)
  assert error(o, definition(q, k, v)) < 1e-3  # A score of 4,000 is known to 2e-4.
  o, _ = attention(q, 0 * k - 1e4, v, implementation=form)
  assert error(o, definition(q, 0 * k, v)) < 1e-3


def gradients(form, args, cotangent, **options):
  """Of the outputs' product with the cotangent, by q, k and v."""

  def loss(args):
    o, _ = ops.softmax_attention(*args, **options, implementation=form)
    return jnp.sum(o * cotangent)

  return jax.jit(jax.grad(loss))(args)


def test_gradients_of_the_recurrent_form_are_finite_differences():
  with jax.enable_x64(True):
    options = dict(CASES["packed_window"], implementation="recurrent")
    run = jax.jit(lambda *args: ops.softmax_attention(*args, **options)[0])
    check_grads(run, inputs("float64"), order=1, modes=["rev"])


@pytest.mark.parametrize("case", ["both_ways", "packed_window"])
def test_gradients_of_all_forms_are_those_of_the_recurrent_form(case):
  with jax.enable_x64(True):
    args = inputs("float64")
    cotangent = jnp.asarray(np.random.default_rng(1).normal(size=(B, T, H, V)))
    want = gradients("recurrent", args, cotangent, **CASES[case])
    for form in FORMS[1:]:
      got = gradients(form, args, cotangent, **CASES[case])
      for a, b in zip(got, want):
        assert error(a, b) < 1e-13


@pytest.mark.parametrize("form", FORMS)
def test_what_stands_at_padding_reaches_nothing(form):
  clean = inputs()
  padding = (IDS == 0)[..., None, None]
  dirty = [
    jnp.where(padding, jnp.array([jnp.nan, jnp.inf])[:, None, None, None], x)
    for x in clean
  ]
  o, _ = attention(*dirty, segment_ids=IDS, implementation=form)
  want, _ = attention(*clean, segment_ids=IDS, implementation=form)
  np.testing.assert_array_equal(o, want)
  assert not o[IDS == 0].any()
  for grad in gradients(form, dirty, 1.0, segment_ids=IDS):
    assert np.isfinite(grad).all() and not grad[IDS == 0].any()


def test_grouped_windowed_and_two_way_attention_match_flash_linear_attention():
  case = np.load(ORACLES / "fla_softmax_attn.npz")
  q, k, v = case["q"], case["k"], case["v"]
  for name, options in {
    "o": dict(),
    "o_window5": dict(window=5),
    "o_noncausal": dict(causal=False),
  }.items():
    o, _ = attention(q, k, v, **options)
    assert error(o, case[name]) < BUDGETS["float32"]


@pytest.mark.parametrize("form", FORMS)
def test_self_and_cross_attention_match_torch(form):
  case = np.load(ORACLES / "torch_mha.npz")

  def project(x, part):
    W, b = (np.split(case[f"in_proj_{n}"], 3)[part] for n in ("weight", "bias"))
    return (x @ W.T + b).reshape(*x.shape[:2], 4, 4)

  x, context = case["x"], case["ctx"]
  for name, source, causal in (("y_causal", x, True), ("y_cross", context, False)):
    q, k, v = project(x, 0), project(source, 1), project(source, 2)
    o, _ = attention(q, k, v, causal=causal, implementation=form)
    y = np.asarray(o).reshape(x.shape) @ case["out_proj.weight"].T
    assert error(y + case["out_proj.bias"], case[name]) < BUDGETS["float32"]


def empty(slots, dtype="float32"):
  return kv_cache.empty(B, slots, G, K, V, dtype)


@pytest.mark.parametrize("window, slots", [(None, T), (5, 5), (5, 8)])
@pytest.mark.parametrize("cuts", [(1,) * T, (2, 1, 11, 7)])
@pytest.mark.parametrize("form", FORMS)
def test_a_sequence_in_parts_is_the_whole(form, cuts, window, slots):
  q, k, v = inputs()
  whole = definition(q, k, v, window=window)
  run = functools.partial(attention, window=window, implementation=form)
  state, outputs, t = empty(slots), [], 0
  for length in cuts:
    part = slice(t, t + length)
    o, state = run(q[:, part], k[:, part], v[:, part], initial_state=state)
    outputs.append(o)
    t += length
  assert error(np.concatenate(outputs, axis=1), whole) < BUDGETS["float32"]
  jax.tree.map(
    np.testing.assert_array_equal, state, kv_cache.append(empty(slots), k, v)
  )


@pytest.mark.parametrize("length", [1, 9])
@pytest.mark.parametrize("form", FORMS)
def test_the_state_belongs_to_the_first_document(form, length):
  q, k, v = inputs()
  t = T - length
  state = kv_cache.append(empty(T), k[:, :t], v[:, :t])
  ids = np.full((B, length), 7)
  if length > 1:
    ids[:, 4:] = 2
  ids[1] = 0
  o, after = attention(
    *(x[:, t:] for x in (q, k, v)),
    initial_state=state,
    segment_ids=jnp.asarray(ids),
    implementation=form,
  )
  both = np.concatenate([np.full((B, t), 7), ids], axis=1)
  want = definition(q, k, v, segment_ids=both)[:, t:]
  assert error(o, want) < BUDGETS["float32"] and not o[1].any()
  assert after.length.tolist() == [5 if length > 1 else T, t]


def test_gradients_pass_through_the_state():
  with jax.enable_x64(True):
    args = inputs("float64")
    cotangent = jnp.asarray(np.random.default_rng(1).normal(size=(B, T, H, V)))

    def loss(args):
      state, total = empty(T, "float64"), 0.0
      for part in (slice(0, 9), slice(9, 10), slice(10, T)):
        o, state = ops.softmax_attention(
          *(x[:, part] for x in args), initial_state=state
        )
        total += jnp.sum(o * cotangent[:, part])
      return total

    got = jax.jit(jax.grad(loss))(args)
    for a, b in zip(got, gradients("recurrent", args, cotangent)):
      assert error(a, b) < 1e-13


@pytest.mark.parametrize("cuts", [(5, 5), (5, 4, 1)])
def test_a_full_cache_gives_nan_and_never_a_window(cuts):
  q, k, v = inputs()
  state, outputs, t = empty(8), [], 0
  for length in cuts:
    part = slice(t, t + length)
    o, state = attention(q[:, part], k[:, part], v[:, part], initial_state=state)
    outputs.append(o)
    t += length
  o = np.concatenate(outputs, axis=1)
  assert error(o[:, :8], definition(q[:, :8], k[:, :8], v[:, :8])) < 2e-6
  assert np.isnan(o[:, 8:]).all()
  part, padding = slice(t, t + 2), jnp.zeros((B, 2), jnp.int32)
  o, _ = attention(
    q[:, part], k[:, part], v[:, part], initial_state=state, segment_ids=padding
  )
  assert not o.any()


def test_blockwise_holds_no_score_matrix(monkeypatch):
  monkeypatch.undo()
  length = 8192
  x = jax.ShapeDtypeStruct((1, length, 1, 16), jnp.float32)

  def loss(q, k, v):
    return jnp.sum(ops.softmax_attention(q, k, v)[0] ** 2)

  compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(x, x, x).compile()
  temporary = compiled.memory_analysis().temp_size_in_bytes
  assert temporary < length * length * 4 / 6


@pytest.mark.parametrize(
  "options, words",
  [
    (dict(window=0), "window >= 1"),
    (dict(window=4, causal=False), "causal"),
    (dict(implementation="chunked"), "'blockwise'.*got 'chunked'"),
    (dict(segment_ids=IDS[:, 1:]), "segment_ids"),
    (dict(window=6, initial_state=empty(5)), "at least window = 6 slots; got 5"),
    (dict(initial_state=kv_cache.empty(B, 9, H, K, V, "float32")), "initial_state.k"),
  ],
)
def test_a_wrong_option_is_refused_in_words(options, words):
  with pytest.raises(ValueError, match=words):
    ops.softmax_attention(*inputs(), **options)


def test_shapes_that_do_not_fit_are_refused_in_words():
  q, k, v = inputs()
  with pytest.raises(ValueError, match="divide 3 heads; got 2"):
    ops.softmax_attention(q[:, :, :3], k, v)
  with pytest.raises(ValueError, match="as many keys as queries, 21, to align; got 20"):
    ops.softmax_attention(q, k[:, :-1], v[:, :-1])


# The fused kernels.


@pytest.mark.parametrize("form, device", [("cudnn", "a GPU"), ("splash", "a TPU")])
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="for machines without")
def test_a_kernel_named_on_other_hardware_is_refused(form, device):
  with pytest.raises(NotImplementedError, match=f"{form}.*it needs {device}, not cpu"):
    ops.softmax_attention(*inputs("bfloat16"), implementation=form)


@pytest.fixture
def on_a_tpu(monkeypatch):
  monkeypatch.setattr(dispatch, "platform", lambda: "tpu")
  with pltpu.force_tpu_interpret_mode():
    yield


def kernel_inputs(dtype, length, size=64):
  rng = np.random.default_rng(0)
  shapes = (1, length, 2, size), (1, length, 1, size), (1, length, 1, size)
  return [jnp.asarray(rng.normal(size=s), dtype) for s in shapes]


KERNEL_CASES = {
  "causal": dict(),
  "window": dict(window=50),
  "both_ways": dict(causal=False),
  # Document 1 comes back as another, past padding.
  "packed": dict(
    segment_ids=np.repeat([[0, 1, 2, 0, 1, 0]], [9, 90, 60, 1, 90, 6], axis=1)
  ),
}


@pytest.mark.parametrize("case", ["window", "both_ways", "packed"])
def test_splash_interpreted_is_the_parallel_form(case, on_a_tpu):
  args, options = kernel_inputs("bfloat16", 256), KERNEL_CASES[case]
  o, _ = ops.softmax_attention(*args, **options, implementation="splash")
  assert error(o, definition(*args, **options)) < BUDGETS["bfloat16"]
  got = gradients("splash", args, 1.0, **options)
  want = gradients("parallel", [x.astype("float32") for x in args], 1.0, **options)
  for a, b in zip(got, want):
    assert error(a, np.asarray(b)) < testing.tolerance("bfloat16")


@pytest.mark.parametrize(
  "dtype, length, size, reason",
  [
    ("float32", 128, 64, "bfloat16, not float32"),
    ("bfloat16", 100, 64, r"multiples of 128, not \(100, 100\)"),
    ("bfloat16", 128, 96, "K = V in multiples of 64"),
  ],
)
def test_splash_says_what_it_cannot_take(dtype, length, size, reason, on_a_tpu):
  with pytest.raises(NotImplementedError, match=reason):
    args = kernel_inputs(dtype, length, size)
    ops.softmax_attention(*args, implementation="splash")


@pytest.mark.parametrize("case", ["window", "packed"])
def test_auto_is_splash_when_lowered_for_a_tpu(case, monkeypatch):
  monkeypatch.setattr(dispatch, "platform", lambda: "tpu")
  options = KERNEL_CASES[case]

  def loss(*args):
    return jnp.sum(ops.softmax_attention(*args, **options)[0].astype(jnp.float32))

  step = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
  lowered = jax.export.export(step, platforms=["tpu"])(*kernel_inputs("bfloat16", 256))
  assert lowered.mlir_module().count("tpu_custom_call") == 3  # o, dq, and dk with dv.


@pytest.mark.parametrize("case", KERNEL_CASES)
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")
def test_cudnn_is_the_definition(case):
  args, options = kernel_inputs("bfloat16", 256), KERNEL_CASES[case]
  o, _ = ops.softmax_attention(*args, **options, implementation="cudnn")
  assert error(o, definition(*args, **options)) < BUDGETS["bfloat16"]
  got = gradients("cudnn", args, 1.0, **options)
  want = gradients("parallel", [x.astype("float32") for x in args], 1.0, **options)
  for a, b in zip(got, want):
    assert error(a, np.asarray(b)) < testing.tolerance("bfloat16")
