import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops, testing
from jaxseq.ops.conv import dense_conv as module

jitted = jax.jit(ops.dense_conv, static_argnames="implementation")

B, T, D, E = 2, 13, 5, 3
BUDGET = 2e-6  # Of float32 against float64, as a share of the largest value.

# Ids that come back later, padding before, between and after, a row of padding alone.
IDS = np.zeros((B, T), np.int32)
IDS[0, 1:5], IDS[0, 5:7], IDS[0, 8:12] = 3, 1, 3

run = jax.jit(ops.dense_conv, static_argnames="implementation")


def case(L):
  rng = np.random.default_rng(0)
  return [rng.normal(size=s) for s in ((B, T, D), (L, D, E), (B, L - 1, D))]


def loop(x, kernel, state, ids):
  """Token by token in numpy float64."""
  y, last = np.zeros((B, T, E)), np.array(state)
  for b in range(B):
    document = None
    for t in range(T):
      if ids is not None and ids[b, t] == 0:
        continue
      if ids is not None and document not in (None, ids[b, t]):
        last[b] = 0
      document = None if ids is None else ids[b, t]
      window = np.concatenate([last[b], x[b, t : t + 1]])
      y[b, t] = sum(window[-1 - lag] @ W for lag, W in enumerate(kernel))
      last[b] = window[1:]
  return y, last


def low(arrays):
  return [jnp.asarray(a, jnp.float32) for a in arrays]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("L", [1, 4, 20])
def test_every_form_is_the_loop(L, packed):
  x, kernel, state = case(L)
  ids = IDS if packed else None
  want = loop(x, kernel, state, ids)
  without = loop(x, kernel, 0 * state, ids)
  for form in module.IMPLEMENTATIONS:
    if packed and form == "convolution":
      continue
    options = dict(segment_ids=ids, implementation=form)
    got = run(*low((x, kernel)), initial_state=low([state])[0], **options)
    empty = run(*low((x, kernel)), **options)
    for a, b in zip((*got, *empty), (*want, *without)):
      assert a.shape == b.shape
      assert not a.size or np.abs(a - b).max() < BUDGET * np.abs(want[0]).max(), form


def test_gradients_are_those_of_the_definition_in_float64():
  def gradients(form, args, ids):
    def loss(x, kernel, state):
      y, last = run(
        x, kernel, initial_state=state, segment_ids=ids, implementation=form
      )
      return jnp.sum(jnp.sin(y)) + jnp.sum(last**3)

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*args)

  arrays = case(4)
  for form, ids in (("convolution", None), ("parallel", IDS)):
    with jax.enable_x64():
      want = gradients("recurrent", map(jnp.asarray, arrays), ids)
      testing.assert_close(gradients(form, map(jnp.asarray, arrays), ids), want)
      want = tuple(np.asarray(g) for g in want)
    testing.assert_close(gradients(form, low(arrays), ids), want)


def test_a_diagonal_kernel_is_the_convolution_of_each_channel():
  x, kernel, _ = low(case(4))
  taps = kernel[:, :, 0]
  y, last = run(x, taps[..., None] * jnp.eye(D))
  testing.assert_close((y, last), ops.fft_conv(x, taps))


def test_bfloat16_is_near_float32():
  x, kernel, _ = low(case(4))
  want, _ = run(x, kernel)
  for form in module.IMPLEMENTATIONS:
    y, last = run(x.astype(jnp.bfloat16), kernel, implementation=form)
    assert (y.dtype, last.dtype) == (jnp.bfloat16, jnp.float32)
    assert np.abs(y.astype(jnp.float32) - want).max() < 2e-2 * np.abs(want).max()


def test_wrong_arguments_are_named():
  x, kernel, state = low(case(4))
  with pytest.raises(ValueError, match="dense_conv needs kernel"):
    jitted(x, kernel[:, 1:])
  with pytest.raises(ValueError, match=r"initial_state \[B, L - 1, D\] = \(2, 3, 5\)"):
    jitted(x, kernel, initial_state=state[:, 1:])
  with pytest.raises(NotImplementedError, match="packed documents"):
    jitted(x, kernel, segment_ids=IDS, implementation="convolution")
