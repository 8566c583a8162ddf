"""The kernels without their hardware: interpreted, and compiled for TPUs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jaxseq_kernels.recurrent_cells import fused, reference, refusal

from jaxseq import ops, testing

CELLS = {"lstm": 2, "slstm": 4, "gru": 1}  # Arrays of a state.
CAREFUL = pltpu.InterpretParams(
  detect_races=True, uninitialized_memory="nan", dma_execution_mode="on_wait"
)


def case(cell, shape, dtype=jnp.float32, weights_dtype=None, scale=1.0):
  """Gates, weights, starts and validity, a state, and weights of what comes out.

  The first row is of two documents with padding inside, the last padded at both ends.
  """
  B, T, H, K = shape
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  starts, valid = np.zeros((B, T), bool), np.ones((B, T), bool)
  starts[0, T // 2] = starts[-1, T - 2] = True
  valid[0, T // 2 - 1] = valid[-1, 0] = valid[-1, T - 1] = False
  gates = scale * draw(B, T, H, 4, K) * valid[..., None, None, None]
  weights = draw(H, 3 if cell == "gru" else 4, K, K) / K**0.5
  state = [draw(B, H, K) for _ in range(CELLS[cell])]
  if cell == "slstm":
    state[2] = 1 + np.exp(state[2])
  outputs = draw(B, T, H, K), *(draw(B, H, K) for _ in state)
  gates = jnp.asarray(gates, dtype)
  weights = jnp.asarray(weights, weights_dtype or dtype)
  return (gates, weights, starts, valid, *map(jnp.asarray, state)), outputs


def outputs_and_gradients(run, args, outputs):
  def loss(gates, weights, *state):
    out = run(gates, weights, *args[2:4], *state)
    return sum(jnp.sum(o * w) for o, w in zip(out, outputs)), out

  arrays = (args[0], args[1], *args[4:])
  step = jax.grad(loss, argnums=tuple(range(len(arrays))), has_aux=True)
  return jax.jit(step)(*arrays)


def errors(cell, args, outputs, interpret):
  """Norms of the differences to float64, as shares."""
  kernel = functools.partial(fused, cell=cell, backend="tpu", interpret=interpret)
  got = outputs_and_gradients(kernel, args, outputs)
  plain = functools.partial(reference.forward, cell=cell)
  with jax.enable_x64():
    wide = lambda x: x if x.dtype == bool else jnp.asarray(np.float64(x))
    want = outputs_and_gradients(plain, [wide(x) for x in args], outputs)
    want = jax.tree.map(np.asarray, want)
  share = lambda a, b: np.linalg.norm(np.float64(a) - b) / np.linalg.norm(b)
  return max(map(share, jax.tree.leaves(got), jax.tree.leaves(want)))


@pytest.mark.parametrize("cell", CELLS)
def test_the_interpreted_kernels_are_the_reference(cell):
  assert errors(cell, *case(cell, (3, 19, 2, 20)), CAREFUL) < 1e-6


@pytest.mark.parametrize("cell", CELLS)
def test_blocks_of_the_batch_and_of_heads(cell):
  assert errors(cell, *case(cell, (70, 5, 3, 4)), True) < 1e-6


@pytest.mark.parametrize("cell", CELLS)
def test_gates_far_from_zero(cell):
  assert errors(cell, *case(cell, (2, 21, 1, 130), scale=50.0), True) < 3e-6


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("cell", CELLS)
def test_bfloat16_weights(cell, dtype):
  args, outputs = case(cell, (2, 21, 1, 130), dtype, jnp.bfloat16)
  assert fused(*args, cell=cell, backend="tpu", interpret=True)[0].dtype == dtype
  assert errors(cell, args, outputs, True) < 5e-3


@pytest.mark.parametrize("name", ["lstm", "slstm", "gru"])
def test_the_op_takes_it(name, monkeypatch):
  """Packed documents with padding of no numbers, and the bias of a GRU."""
  from jaxseq.ops import dispatch
  from jaxseq.ops.rnn import cells

  kernel = functools.partial(fused, interpret=True)
  monkeypatch.setattr(cells.recurrent_cells, "fused", kernel)
  monkeypatch.setattr(dispatch, "no_kernels", lambda backend: None)
  (gates, weights, _, _, *state), _ = case(name, (2, 9, 2, 3))
  ids = jnp.array([[1, 1, 1, 2, 2, 2, 2, 0, 0], [0, 0, 3, 3, 3, 3, 4, 4, 4]])
  gates = jnp.where((ids == 0)[..., None, None, None], jnp.nan, gates)
  if name == "gru":
    gates, bias, state = gates[:, :, :, :3], jnp.ones((2, 3)), state[0]
  else:
    bias, state = None, getattr(ops, f"{name.upper()}State")(*state)

  def loss(form, gates, weights, bias, state):
    options = dict(initial_state=state, segment_ids=ids, implementation=form)
    op, biases = getattr(ops, name), () if bias is None else (bias,)
    h, last = op(gates, weights, *biases, **options)
    return jnp.sum(jnp.sin(h)) + sum(map(jnp.sum, jax.tree.leaves(last))), (h, last)

  step = jax.grad(loss, argnums=(1, 2, 3, 4), has_aux=True)
  args = (gates, weights, bias, state)
  testing.assert_close(step("pallas_tpu", *args), step("recurrent", *args))


def test_it_says_why_it_cannot_take_a_call():
  (gates, weights, *_), _ = case("lstm", (2, 3, 1, 4))
  assert refusal(gates, weights, backend="tpu") is None
  half = gates.astype(jnp.float16)
  assert "not float16 gates" in refusal(half, weights, backend="tpu")
  large = jax.ShapeDtypeStruct((1, 4, 1024, 1024), jnp.float32)
  assert "at most 8 MiB, and these are 16.0 MiB" in refusal(gates, large, backend="tpu")
  if jax.default_backend() == "cpu":
    with pytest.raises(NotImplementedError, match="needs a TPU, not cpu"):
      ops.lstm(gates, weights, implementation="pallas_tpu")
  with pytest.raises(NotImplementedError, match="reset before the product"):
    weights = weights[:, :3]
    form = dict(reset="before", implementation="pallas_tpu")
    ops.gru(gates[:, :, :, :3], weights, **form)


def test_over_eight_devices_it_gives_what_one_gives(eight_devices):
  from jaxseq.ops import sharded

  args, outputs = case("lstm", (4, 5, 2, 4))
  kernel = functools.partial(fused, cell="lstm", backend="tpu", interpret=True)
  axes = ("BTHGK", "HGKK", "BT", "BT", "BHK", "BHK")
  run = lambda *args: sharded.over_batch_and_heads(
    kernel, args, axes, ("BTHK", "BHK", "BHK")
  )
  want = outputs_and_gradients(kernel, args, outputs)
  with jax.set_mesh(eight_devices):
    got = outputs_and_gradients(run, args, outputs)
  testing.assert_close(jax.tree.map(np.asarray, got), jax.tree.map(np.asarray, want))


CHIPS = ("v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "slstm", "gru"])
@pytest.mark.parametrize(
  "topology,heads,K,dtype",
  [*((chip, 4, 256, "bfloat16") for chip in CHIPS), ("v6e:2x2", 1, 512, "float32")],
)
def test_it_compiles_for_a_tpu_forward_and_backward(
  name, topology, heads, K, dtype, compiled_for_tpu
):
  B, T, G = 16, 2048, 3 if name == "gru" else 4
  args = [
    jax.ShapeDtypeStruct((B, T, heads, G, K), dtype),
    jax.ShapeDtypeStruct((heads, G, K, K), dtype),
    jax.ShapeDtypeStruct((B, T), "int32"),
  ]

  def loss(gates, weights, ids):
    h, _ = getattr(ops, name)(gates, weights, segment_ids=ids)
    return jnp.sum(h.astype(jnp.float32) ** 2)

  step = jax.value_and_grad(loss, argnums=(0, 1))
  text = compiled_for_tpu(topology, step, *args).as_text()
  assert f"{name}_forward" in text and f"{name}_backward" in text
