"""The kernels against their recurrences: interpreted, or on a GPU as they are."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from jaxseq import ops
from jaxseq.ops import dispatch

pytest.importorskip("jax.experimental.pallas.mosaic_gpu")

ON_GPU = jax.default_backend() == "gpu"
GATES = {  # By op, the arrays that follow q, k and v.
  "scalar_decay": ("scalar",),
  "diagonal_decay": ("diagonal",),
  "gated_delta_rule": ("scalar", "beta"),
  "channel_delta_rule": ("diagonal", "beta"),
  "dplr": ("a", "b", "diagonal"),
}
CASES = {
  "odd": dict(T=150, H=2, K=64, V=64),
  "few": dict(T=70, K=136, V=24, stateful=True),
  "one tile of values": dict(T=515, K=64, V=64, stateful=True),
  "two pieces": dict(T=530, K=32, V=96, stateful=True),
  "packed, extreme": dict(T=330, K=96, V=64, stateful=True, packed=True, extreme=True),
}
ON_DEVICE = {
  "dense": dict(B=2, T=1024, H=3, K=128, V=128),
  "narrow": dict(B=1, T=600, H=2, K=64, V=128, stateful=True),
  "half a tile": dict(B=1, T=300, H=2, K=96, V=96, stateful=True, packed=True),
  "wide": dict(B=1, T=777, H=2, K=256, V=256, stateful=True, packed=True),
  "long": dict(B=1, T=4000, H=2, K=128, V=64, stateful=True, extreme=True),
}
each_op = pytest.mark.parametrize("op", GATES)


def package(op):
  return importlib.import_module(f"jaxseq_kernels.{op}")


def draw(
  op, B=1, T=64, H=1, K=64, V=64, *, stateful=False, packed=False, extreme=False
):
  """The arrays, starts, valid tokens, and gradients of output and state."""
  rng = np.random.default_rng(0)
  f32 = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  bf16 = lambda *shape: f32(*shape).astype(jnp.bfloat16)
  q, k, v = bf16(B, T, H, K), f32(B, T, H, K), bf16(B, T, H, V)
  k = (k / jnp.linalg.norm(k, axis=-1, keepdims=True)).astype(jnp.bfloat16)
  g = 0.2 * jax.nn.log_sigmoid(f32(B, T, H))
  beta = 2 * jax.nn.sigmoid(f32(B, T, H))
  if extreme:
    kind = rng.random(g.shape)
    g = jnp.where(kind < 0.05, -200.0, jnp.where(kind < 0.3, 0.0, g))
    beta = jnp.where(kind > 0.8, 0.0, beta)
  diagonal = 0.2 * jax.nn.log_sigmoid(f32(B, T, H, K))
  if extreme:  # Or, in every second chunk, so fast that blocks of any size are needed.
    chunk = jnp.arange(T)[:, None, None] // 64
    fast = diagonal * 2.0 ** (2.5 + chunk % 5 / 2)
    diagonal = jnp.where(rng.random(diagonal.shape) < 0.05, -200.0, diagonal)
    diagonal = jnp.where(chunk % 2, fast, diagonal)
  share = jax.nn.sigmoid(f32(B, T, H, K))
  a, b = (-k * share).astype(jnp.bfloat16), k
  gates = dict(scalar=g, diagonal=diagonal, beta=beta, a=a, b=b)
  state = f32(B, H, K, V) if stateful else None
  starts = valid = None
  if packed:
    valid = rng.random((B, T)) > 0.05
    starts = jnp.asarray(valid & (rng.random((B, T)) < 0.03))
  gradients = bf16(B, T, H, V), f32(B, H, K, V)
  return (q, k, v, *(gates[x] for x in GATES[op]), state), starts, valid, gradients


def interpreter(backend="gpu"):
  from jax.experimental.pallas import mosaic_gpu as plgpu
  from jax.experimental.pallas import tpu as pltpu

  if backend == "tpu":
    return pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan")
  return False if ON_GPU else plgpu.InterpretGPUParams()


def value_and_gradients(run, arrays, gradients):
  given = [i for i, x in enumerate(arrays) if x is not None]

  @jax.jit
  def both(arrays, gradients):
    full = lambda part: [
      part[given.index(i)] if i in given else None for i in range(len(arrays))
    ]
    out, pullback = jax.vjp(lambda *part: run(*full(part)), *(arrays[i] for i in given))
    gradients = jax.tree.map(lambda x, y: x.astype(y.dtype), gradients, out)
    return *out, *pullback(gradients)

  return both(arrays, gradients)


def error(got, want):
  got, want = (np.asarray(x, np.float64) for x in (got, want))
  return np.linalg.norm(got - want) / np.linalg.norm(want)


@each_op
@pytest.mark.parametrize("case", [*CASES, *(ON_DEVICE if ON_GPU else ())])
def test_values_and_gradients_are_those_of_the_recurrence(op, case):
  case = draw(op, **(CASES | ON_DEVICE)[case])
  errors = errors_of(op, "gpu", case, interpreter())
  assert max(errors) < 5e-3, errors  # bfloat16 keeps 4e-3.


@each_op
@pytest.mark.parametrize("case", ["odd", "packed, extreme"])
def test_on_a_tpu_too(op, case):
  strict = interpreter("tpu") if case == "odd" else True
  errors = errors_of(op, "tpu", draw(op, **CASES[case]), strict)
  assert max(errors) < 6e-3, errors


@each_op
@pytest.mark.skipif(ON_GPU, reason="the interpreter's products are tf32 there")
def test_on_a_tpu_float32_is_exact(op):
  given, *others = draw(op, **CASES["packed, extreme"])
  given = [x.astype(jnp.float32) for x in given]
  errors = errors_of(op, "tpu", (given, *others), True)
  assert max(errors) < 1e-6, errors


def errors_of(op, backend, case, interpret):
  """Of outputs and all gradients, against the recurrence in float64."""
  arrays, starts, valid, gradients = case
  fused = lambda *x: package(op).fused(
    *x, starts, valid, scale=0.7, backend=backend, interpret=interpret
  )
  got = value_and_gradients(fused, arrays, gradients)
  q, _, v, *_ = arrays
  never = jnp.zeros(q.shape[:2], bool)
  zeros = jnp.zeros((q.shape[0], q.shape[2], q.shape[3], v.shape[3]))
  forward = importlib.import_module(f"jaxseq_kernels.{op}.reference").forward
  with jax.enable_x64(True):
    wide = [None if x is None else x.astype(jnp.float64) for x in arrays]
    slow = lambda *x: forward(
      *(*x[:-1], zeros.astype(jnp.float64) if x[-1] is None else x[-1]),
      *(never if starts is None else starts, ~never if valid is None else valid),
      scale=0.7,
    )
    want = value_and_gradients(slow, wide, gradients)
  return [float(error(a, b)) for a, b in zip(got, want, strict=True)]


@each_op
@pytest.mark.parametrize("backend", ["gpu", "tpu"])
def test_documents_in_a_row_are_as_if_alone(op, backend):
  (*arrays, _), *_ = draw(op, T=192)
  lengths = (70, 58, 64)
  ids = jnp.repeat(jnp.arange(1, 4), jnp.asarray(lengths), total_repeat_length=192)
  starts = jnp.zeros((1, 192), bool).at[0, np.cumsum(lengths)[:2]].set(True)
  run = jax.jit(
    lambda starts, *x: package(op).fused(
      *x,
      *(None, starts, None),
      scale=1.0,
      backend=backend,
      interpret=interpreter() if backend == "gpu" else True,
    )[0]
  )
  together = run(starts, *arrays)
  for document in (1, 2, 3):
    (mine,) = np.nonzero(np.asarray(ids == document))
    alone = lambda x, mine=mine: jnp.zeros_like(x).at[:, : len(mine)].set(x[:, mine])
    want = run(jnp.zeros_like(starts), *map(alone, arrays))[:, : len(mine)]
    assert error(together[:, mine].astype(jnp.float32), want.astype(jnp.float32)) < 5e-3


def test_a_decay_that_rounding_leaves_above_zero_is_none():
  (q, k, v, _, state), _, _, gradients = draw("scalar_decay", T=70, stateful=True)
  run = lambda *x: package("scalar_decay").fused(
    *x, None, None, scale=1.0, backend="gpu", interpret=interpreter()
  )
  above, at = (
    value_and_gradients(run, (q, k, v, jnp.full((1, 70, 1), g), state), gradients)
    for g in (1e-7, 0.0)
  )
  for a, b in zip(above, at, strict=True):
    np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))


def test_a_bonus_for_the_current_token_is_time_mix():
  (q, k, v, g, state), _, _, gradients = draw("diagonal_decay", T=70, stateful=True)
  bonus = 0.1 * jnp.arange(64.0)[None]
  fused = lambda *x: package("diagonal_decay").fused(
    *x[:-1], None, None, x[-1], scale=0.7, backend="gpu", interpret=interpreter()
  )
  exact = lambda q, k, v, g, S, u: ops.time_mix(
    q, k, v, g, u, initial_state=S, scale=0.7, implementation="recurrent"
  )
  arrays = (q, k, v, g, state, bonus)
  wide = [x.astype(jnp.float32) for x in arrays]
  got, want = (
    value_and_gradients(run, x, gradients)
    for run, x in ((fused, arrays), (exact, wide))
  )
  errors = [float(error(a, b)) for a, b in zip(got, want, strict=True)]
  assert max(errors) < 5e-3, errors


@pytest.fixture
def interpreted(monkeypatch):
  """`interpreted(op)`: from now on its kernels run without a GPU."""

  def patch(op):
    fused = functools.partial(package(op).fused, interpret=interpreter())
    monkeypatch.setattr(package(op), "fused", fused)
    monkeypatch.setattr(dispatch, "no_kernels", lambda backend: None)

  return patch


@pytest.mark.skipif(ON_GPU, reason="there the kernel runs")
def test_mlstm_takes_it_for_memory_and_normalizer(interpreted):
  (q, k, v, f, C), _, _, gradients = draw("scalar_decay", T=70, H=2, stateful=True)
  interpreted("scalar_decay")
  m = jnp.zeros(C.shape[:2])

  def run(form, q, k, v, i, f, C):
    state = ops.MLSTMState(C, C[..., 0], m)
    h, S = ops.mlstm(q, k, v, i, f, initial_state=state, implementation=form)
    return h, S.C

  def both(form, *wide):
    arrays = (*(x.astype(*wide) if wide else x for x in (q, k, v)), 5 * f + 1, f, C)
    return value_and_gradients(functools.partial(run, form), arrays, gradients)

  kernel, chunked = both("pallas_gpu"), both("chunked")
  exact = both("recurrent", jnp.float32)
  for a, b, c in zip(kernel, chunked, exact, strict=True):
    assert error(a, c) < 2 * error(b, c) + 1e-3


@pytest.mark.skipif(ON_GPU, reason="there the kernel runs")
@pytest.mark.parametrize(
  "op,kernel", [("time_mix", "diagonal_decay"), ("delta_product", "gated_delta_rule")]
)
def test_ops_that_have_it_by_another_op(op, kernel, interpreted):
  (q, k, v, *gates, S), _, _, gradients = draw(kernel, T=70, H=2, stateful=True)
  ids = jnp.arange(70)[None] // 30 + 1
  interpreted(kernel)
  if op == "time_mix":
    gates += [jnp.linspace(-1.0, 1.0, 128).reshape(2, 64)]
  else:  # Two steps a token.
    steps = lambda x, sign: jnp.stack([x, sign * jnp.roll(x, 1, axis=1)], axis=2)
    k, v, gates[1] = steps(k, 1), steps(v, -1), steps(gates[1], 1)

  def both(form, *wide):
    run = lambda *x: getattr(ops, op)(
      *x[:-1], initial_state=x[-1], segment_ids=ids, implementation=form
    )
    arrays = (*(x.astype(*wide) if wide else x for x in (q, k, v)), *gates, S)
    return value_and_gradients(run, arrays, gradients)

  exact = both("recurrent", jnp.float32)
  for a, b, c in zip(both("pallas_gpu"), both("chunked"), exact, strict=True):
    assert error(a, c) < 2 * error(b, c) + 1e-3


@each_op
@pytest.mark.parametrize("K,V", [(128, 128), (64, 256)])
def test_it_lowers_for_a_hopper_gpu_forward_and_backward(op, K, V, lowered_for_hopper):
  def loss(*x):
    fused = package(op).fused(*x, None, None, None, scale=1.0, backend="gpu")
    return sum(jnp.sum(y.astype(jnp.float32)) for y in fused)

  (*arrays, _), *_ = jax.eval_shape(lambda: draw(op, 1, 4096, 16, K, V))
  gradient = jax.grad(loss, argnums=tuple(range(len(arrays))))
  text = lowered_for_hopper(gradient, *arrays)
  assert text.count(f"{op}_") > 3


@each_op
def test_it_says_what_it_cannot_take(op):
  (q, k, v, *gates, _), *_ = draw(op, T=8)
  refuse = lambda q, scale=1.0: package(op).refusal(
    q, k, v, *gates, None, None, None, scale=scale, backend="gpu"
  )
  assert refuse(q) is None
  assert "bfloat16" in refuse(q.astype(jnp.float32))
  assert "at most 256" in refuse(jnp.zeros((1, 8, 1, 512), jnp.bfloat16))
  assert "positive" in refuse(q, scale=-1.0)


@each_op
@pytest.mark.skipif(ON_GPU, reason="there the kernel runs")
def test_without_a_gpu_it_refuses_by_name_and_gives_way_to_chunks(op):
  (*arrays, _), *_ = draw(op, T=16)
  run = getattr(ops, op)
  with pytest.raises(NotImplementedError, match="needs a GPU, not cpu"):
    run(*arrays, implementation="pallas_gpu")
  for a, b in zip(run(*arrays), run(*arrays, implementation="chunked"), strict=True):
    np.testing.assert_array_equal(a, b)


def test_a_gpu_that_is_no_hopper_gets_chunks_and_a_warning():
  x = jax.ShapeDtypeStruct((1, 128, 2, 64), jnp.bfloat16)
  g = jax.ShapeDtypeStruct((1, 128, 2), jnp.float32)
  device = AbstractDevice("NVIDIA A100-SXM4-80GB", None, "cuda")
  mesh = AbstractMesh((1,), ("x",), abstract_device=device)
  with jax.sharding.use_abstract_mesh(mesh), pytest.warns(UserWarning, match="Hopper"):
    text = jax.jit(ops.scalar_decay).trace(x, x, x, g).jaxpr.pretty_print()
  assert "pallas_call" not in text and "scan" in text


@each_op
@pytest.mark.gpu
@pytest.mark.skipif(not ON_GPU, reason="needs a Hopper GPU")
def test_auto_takes_the_kernel_and_it_repeats_bit_by_bit(op):
  arrays, _, _, gradients = draw(op, 2, 512, 4, 128, 128, stateful=True)

  def run(implementation):
    form = lambda *x: getattr(ops, op)(
      *x[:-1], initial_state=x[-1], implementation=implementation
    )
    return value_and_gradients(form, arrays, gradients)

  for a, b in zip(run("auto"), run("pallas_gpu"), strict=True):
    np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))


@each_op
@pytest.mark.slow
@pytest.mark.parametrize(
  "topology,K",
  [
    *(("v5e:2x2", K) for K in (64, 128)),  # Heads of 64 are padded, then the same.
    *((chip, 128) for chip in ("v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1")),
  ],
)
def test_it_compiles_for_a_tpu_forward_and_backward(op, K, topology, compiled_for_tpu):
  def loss(*x):
    fused = package(op).fused(*x, None, None, None, scale=1.0, backend="tpu")
    return sum(jnp.sum(y.astype(jnp.float32)) for y in fused)

  (*arrays, _), *_ = jax.eval_shape(lambda: draw(op, 4, 4096, 16, K, 128))
  gradient = jax.grad(loss, argnums=tuple(range(len(arrays))))
  program = compiled_for_tpu(topology, gradient, *arrays).as_text()
  assert f"{op}_forward" in program and f"{op}_backward" in program
