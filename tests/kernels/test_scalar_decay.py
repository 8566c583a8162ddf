"""The GPU kernels against the recurrence: interpreted, or on a GPU as they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh
from jaxseq_kernels import scalar_decay
from jaxseq_kernels.scalar_decay import reference

from jaxseq import ops

pytest.importorskip("jax.experimental.pallas.mosaic_gpu")

ON_GPU = jax.default_backend() == "gpu"
CASES = {
  "odd": dict(T=150, H=2, K=64, V=64),
  "two pieces": dict(T=530, K=32, V=96, stateful=True),
  "packed, extreme": dict(T=330, K=96, V=64, stateful=True, packed=True, extreme=True),
}
ON_DEVICE = {
  "dense": dict(B=2, T=1024, H=3, K=128, V=128),
  "narrow": dict(B=1, T=600, H=2, K=64, V=128, stateful=True),
  "wide": dict(B=1, T=777, H=2, K=256, V=256, stateful=True, packed=True),
  "long": dict(B=1, T=4000, H=2, K=128, V=64, stateful=True, extreme=True),
}


def draw(B=1, T=64, H=1, K=64, V=64, *, stateful=False, packed=False, extreme=False):
  rng = np.random.default_rng(0)
  bf16 = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.bfloat16)
  f32 = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  q, k, v = bf16(B, T, H, K), bf16(B, T, H, K), bf16(B, T, H, V)
  g = 0.2 * jax.nn.log_sigmoid(f32(B, T, H))
  if extreme:
    kind = rng.random(g.shape)
    g = jnp.where(kind < 0.05, -200.0, jnp.where(kind < 0.3, 0.0, g))
  state = f32(B, H, K, V) if stateful else None
  starts = valid = None
  if packed:
    valid = rng.random((B, T)) > 0.05
    starts = jnp.asarray(valid & (rng.random((B, T)) < 0.03))
  gradients = bf16(B, T, H, V), f32(B, H, K, V)
  return (q, k, v, g, state), starts, valid, gradients


def interpreter():
  from jax.experimental.pallas import mosaic_gpu as plgpu

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


@pytest.mark.parametrize("case", [*CASES, *(ON_DEVICE if ON_GPU else ())])
def test_values_and_gradients_are_those_of_the_recurrence(case):
  arrays, starts, valid, gradients = draw(**(CASES | ON_DEVICE)[case])
  fused = lambda *x: scalar_decay.fused(
    *x, starts, valid, scale=0.7, backend="gpu", interpret=interpreter()
  )
  got = value_and_gradients(fused, arrays, gradients)

  q, _, v, _, state = arrays
  never = jnp.zeros(q.shape[:2], bool)
  zeros = jnp.zeros((q.shape[0], q.shape[2], q.shape[3], v.shape[3]))
  with jax.enable_x64(True):
    wide = [None if x is None else x.astype(jnp.float64) for x in arrays]
    slow = lambda q, k, v, g, state: reference.forward(
      *(q, k, v, g, zeros.astype(jnp.float64) if state is None else state),
      *(never if starts is None else starts, ~never if valid is None else valid),
      scale=0.7,
    )
    want = value_and_gradients(slow, wide, gradients)
  for a, b in zip(got, want, strict=True):
    assert error(a, b) < 5e-3  # bfloat16 keeps 4e-3.


def test_documents_in_a_row_are_as_if_alone():
  (q, k, v, g, _), *_ = draw(T=192)
  lengths = (70, 58, 64)
  ids = jnp.repeat(jnp.arange(1, 4), jnp.asarray(lengths), total_repeat_length=192)
  starts = jnp.zeros((1, 192), bool).at[0, np.cumsum(lengths)[:2]].set(True)
  run = jax.jit(
    lambda starts, *x: scalar_decay.fused(
      *x, None, starts, None, scale=1.0, backend="gpu", interpret=interpreter()
    )[0]
  )
  together = run(starts, q, k, v, g)
  for document in (1, 2, 3):
    (mine,) = np.nonzero(np.asarray(ids == document))
    alone = lambda x, mine=mine: jnp.zeros_like(x).at[:, : len(mine)].set(x[:, mine])
    want = run(jnp.zeros_like(starts), *map(alone, (q, k, v, g)))[:, : len(mine)]
    assert error(together[:, mine].astype(jnp.float32), want.astype(jnp.float32)) < 3e-3


@pytest.mark.parametrize("K,V", [(128, 128), (64, 256)])
def test_it_lowers_for_a_hopper_gpu_forward_and_backward(K, V):
  def loss(*x):
    fused = scalar_decay.fused(*x, None, None, None, scale=1.0, backend="gpu")
    return sum(jnp.sum(y.astype(jnp.float32)) for y in fused)

  shape = lambda *s, dtype=jnp.bfloat16: jax.ShapeDtypeStruct(s, dtype)
  q, v = shape(1, 4096, 16, K), shape(1, 4096, 16, V)
  device = AbstractDevice("NVIDIA H100 80GB HBM3", None, "cuda")
  mesh = AbstractMesh((1,), ("x",), abstract_device=device)
  unchecked = [jax.export.DisabledSafetyCheck.custom_call("mosaic_gpu_v2")]
  with jax.sharding.use_abstract_mesh(mesh):
    run = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))
    program = jax.export.export(run, platforms=["cuda"], disabled_checks=unchecked)
    text = program(q, q, v, shape(1, 4096, 16, dtype=jnp.float32)).mlir_module()
  for name in ("scan", "ends", "queries", "keys"):
    assert f"scalar_decay_{name}" in text


def test_it_says_what_it_cannot_take():
  x = jnp.zeros((1, 8, 1, 64), jnp.bfloat16)
  g = jnp.zeros((1, 8, 1))
  refuse = lambda q, scale=1.0: scalar_decay.refusal(
    q, x, x, g, None, None, None, scale=scale, backend="gpu"
  )
  assert refuse(x) is None
  assert "bfloat16" in refuse(x.astype(jnp.float32))
  assert "at most 256" in refuse(jnp.zeros((1, 8, 1, 512), jnp.bfloat16))
  assert "positive" in refuse(x, scale=-1.0)


@pytest.mark.skipif(ON_GPU, reason="there the kernel runs")
def test_without_a_gpu_it_refuses_by_name_and_gives_way_to_chunks():
  x = jnp.ones((1, 16, 1, 64), jnp.bfloat16)
  g = jnp.zeros((1, 16, 1))
  with pytest.raises(NotImplementedError, match="needs a GPU, not cpu"):
    ops.scalar_decay(x, x, x, g, implementation="pallas_gpu")
  got, _ = ops.scalar_decay(x, x, x, g)
  want, _ = ops.scalar_decay(x, x, x, g, implementation="chunked")
  np.testing.assert_array_equal(got, want)


def test_a_gpu_that_is_no_hopper_gets_chunks_and_a_warning():
  x = jax.ShapeDtypeStruct((1, 128, 2, 64), jnp.bfloat16)
  g = jax.ShapeDtypeStruct((1, 128, 2), jnp.float32)
  device = AbstractDevice("NVIDIA A100-SXM4-80GB", None, "cuda")
  mesh = AbstractMesh((1,), ("x",), abstract_device=device)
  with jax.sharding.use_abstract_mesh(mesh), pytest.warns(UserWarning, match="Hopper"):
    text = jax.jit(ops.scalar_decay).trace(x, x, x, g).jaxpr.pretty_print()
  assert "pallas_call" not in text and "scan" in text


@pytest.mark.gpu
@pytest.mark.skipif(not ON_GPU, reason="needs a Hopper GPU")
def test_auto_takes_the_kernel_and_it_repeats_bit_by_bit():
  (q, k, v, g, state), _, _, gradients = draw(2, 512, 4, 128, 128, stateful=True)

  def run(implementation):
    form = lambda q, k, v, g, S: ops.scalar_decay(
      q, k, v, g, initial_state=S, implementation=implementation
    )
    return value_and_gradients(form, (q, k, v, g, state), gradients)

  for a, b in zip(run("auto"), run("pallas_gpu"), strict=True):
    np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))
