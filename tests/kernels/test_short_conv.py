"""The kernels without their hardware: interpreted, lowered, and compiled for TPUs.

On a GPU the same file runs them there: JAX_PLATFORMS=cuda,cpu python -m pytest.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.experimental.pallas import tpu as pltpu
from jaxseq_kernels import releases
from jaxseq_kernels.short_conv import fused, reference, refusal

from jaxseq import ops, testing

INTERPRETERS = {
  "tpu": pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan"),
  "gpu": plgpu.InterpretGPUParams(),
}
needs_gpu = pytest.mark.skipif(
  jax.default_backend() != "gpu", reason="needs a GPU: run with JAX_PLATFORMS=cuda"
)


def inputs(T=70, D=130, taps=4, dtype=jnp.float32):
  """Two rows, the second of three documents and padding, where x is not a number."""
  keys = jax.random.split(jax.random.key(taps), 3)
  x = jax.random.normal(keys[0], (2, T, D)).astype(dtype)
  weight, bias = (jax.random.normal(k, s) for k, s in zip(keys[1:], [(taps, D), (D,)]))
  place = np.tile(np.arange(T), (2, 1))
  for start in (5, 2 * T // 3):
    place[1, start:] = np.arange(T - start)
  reach = jnp.minimum(jnp.asarray(place, jnp.int32), taps - 1)
  reach = reach.at[1, 3:5].set(-1).at[1, -2:].set(-1)
  return jnp.where(reach[..., None] < 0, jnp.nan, x), weight, bias, reach


def documents(reach):
  return jnp.where(reach < 0, 0, jnp.cumsum(reach == 0, axis=1))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("taps", [2, 4])
@pytest.mark.parametrize("backend", INTERPRETERS)
def test_the_interpreted_kernel_is_the_reference(backend, taps, dtype):
  args = inputs(taps=taps, dtype=dtype)
  got = fused(
    *args, activation="silu", backend=backend, interpret=INTERPRETERS[backend]
  )
  assert got.dtype == dtype
  testing.assert_close(got, reference.forward(*args, activation="silu"))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
  "backend, T, activation",
  [("tpu", 300, "silu"), ("tpu", 33, None), ("gpu", 70, "silu")],
)
def test_its_gradients_are_those_of_the_op(backend, T, activation, packed):
  x, weight, bias, reach = inputs(T)
  ids = documents(reach)
  if not packed:
    x, reach, ids = jnp.nan_to_num(x), None, None
  run = functools.partial(
    fused, activation=activation, backend=backend, interpret=INTERPRETERS[backend]
  )
  op = functools.partial(
    ops.short_conv, activation=activation, segment_ids=ids, implementation="recurrent"
  )
  kernel = lambda *args: jnp.sum(jnp.sin(run(*args, reach)))
  plain = lambda *args: jnp.sum(jnp.sin(op(*args)[0]))
  got = jax.grad(kernel, argnums=(0, 1, 2))(x, weight, bias)
  testing.assert_close(got, jax.grad(plain, argnums=(0, 1, 2))(x, weight, bias))


def test_it_says_why_it_cannot_take_a_call():
  args = inputs()
  assert refusal(*args, backend="tpu") is None
  assert "not float16" in refusal(args[0].astype(jnp.float16), *args[1:], backend="tpu")
  long = inputs(taps=12)
  assert "at most 9 taps, not 12" in refusal(*long, backend="gpu")
  if jax.default_backend() == "cpu":
    with pytest.raises(NotImplementedError, match="needs a TPU, not cpu"):
      ops.short_conv(*args[:3], implementation="pallas_tpu")


def test_an_untested_release_of_jax_is_refused_with_a_warning(monkeypatch):
  assert releases.untested() is None
  monkeypatch.setattr(jax, "__version__", "0.99.1")
  with pytest.warns(UserWarning, match="not on 0.99.1"):
    assert "0.99.1" in releases.untested()


def test_over_eight_devices_it_gives_what_one_gives(eight_devices):
  from jaxseq.ops import sharded

  x, weight, bias, reach = inputs(T=24, D=128)
  x, reach = jnp.tile(x, (2, 1, 1)), jnp.tile(reach, (2, 1))
  run = functools.partial(fused, activation="silu", backend="tpu", interpret=True)
  axes = ("BTD", "WD", "D", "BT")

  def loss(x, weight, bias):
    args = (x, weight, bias, reach)
    return jnp.sum(jnp.sin(sharded.over_batch_and_heads(run, args, axes, "BTD")))

  step = jax.value_and_grad(loss, argnums=(0, 1, 2))
  want = jax.jit(step)(x, weight, bias)
  with jax.set_mesh(eight_devices):
    program = jax.jit(step).lower(x, weight, bias)
    got = program.compile()(x, weight, bias)
  assert "shard_map" in program.as_text() or "manual" in program.as_text()
  testing.assert_close(jax.tree.map(np.asarray, got), jax.tree.map(np.asarray, want))


def shapes(*sizes):
  kinds = (jnp.bfloat16, jnp.float32, jnp.float32, jnp.int32)
  return [jax.ShapeDtypeStruct(s, k) for s, k in zip(sizes, kinds)]


def test_it_lowers_for_a_hopper_gpu(lowered_for_hopper):
  run = functools.partial(fused, activation="silu", backend="gpu")
  loss = lambda *args: jnp.sum(run(*args).astype(jnp.float32) ** 2)
  step = jax.value_and_grad(loss, argnums=(0, 1, 2))
  args = shapes((2, 256, 512), (4, 512), (512,), (2, 256))
  assert lowered_for_hopper(step, *args).count("mosaic_gpu") >= 2


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1"])
def test_it_compiles_for_a_tpu_forward_and_backward(compiled_for_tpu, topology, packed):
  run = functools.partial(fused, activation="silu", backend="tpu")
  loss = lambda *args: jnp.sum(run(*args).astype(jnp.float32) ** 2)
  step = jax.value_and_grad(loss, argnums=(0, 1, 2))
  D = 2048 if packed else 1024
  args = shapes((4, 4096, D), (4, D), (D,), (4, 4096))
  args = args if packed else [*args[:3], None]
  program = compiled_for_tpu(topology, step, *args).as_text()
  assert "short_conv_forward" in program and "short_conv_backward" in program


@needs_gpu
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("taps", [2, 3, 4])
def test_on_a_gpu_the_kernel_is_the_definition(taps, dtype):
  given, weight, bias, reach = inputs(T=1000, D=300, taps=taps, dtype=dtype)
  alone = jnp.nan_to_num(given), jnp.ones((2, taps - 1, 300)), None
  for x, state, segment_ids in [(given, None, documents(reach)), alone]:
    run = functools.partial(
      ops.short_conv,
      activation="silu",
      initial_state=state,
      segment_ids=segment_ids,
    )
    got = run(x, weight, bias, implementation="pallas_gpu")
    testing.assert_close(got, run(x, weight, bias, implementation="recurrent"))
    loss = lambda form, run=run: (
      lambda *args: jnp.sum(
        jnp.sin(run(*args, implementation=form)[0].astype(jnp.float32))
      )
    )
    got, want = (
      jax.grad(loss(form), argnums=(0, 1, 2))(x, weight, bias)
      for form in ("pallas_gpu", "recurrent")
    )
    testing.assert_close(got, want)


@needs_gpu
def test_on_a_gpu_models_side_by_side_have_weights_of_their_own():
  x, weight, bias, reach = inputs(D=256)
  several = [jnp.stack([a, 0.5 * a, -a]) for a in (x, weight, bias)]
  run = lambda *args: fused(*args, reach, activation="silu", backend="gpu")
  step = jax.grad(lambda *args: jnp.sum(jnp.sin(run(*args))), argnums=(0, 1, 2))
  got = jax.jit(jax.vmap(step))(*several)
  want = [step(*[a[i] for a in several]) for i in range(3)]
  testing.assert_close(got, jax.tree.map(lambda *a: jnp.stack(a), *want))
