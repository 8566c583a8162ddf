import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops, testing
from jaxseq.ops.conv import modal_conv as module

BUDGET = 3e-6  # Of float32 against float64, as a share of the largest value.


def case(T, seed=0):
  rng = np.random.default_rng(seed)
  normal = lambda *shape: rng.normal(size=shape) + 1j * rng.normal(size=shape)
  log_poles = -rng.uniform(0, 0.5, (3, 2)) + 1j * rng.uniform(0, np.pi, (3, 2))
  log_poles[0, 0], log_poles[1, 1] = 0, -200  # All is kept, and nothing.
  arrays = rng.normal(size=(2, T, 3)), log_poles, normal(3, 2), rng.normal(size=3)
  ids = np.ones((2, T), np.int32)
  ids[0, : T // 3], ids[0, T // 2 :], ids[1, T - T // 4 :] = 0, 2, 0
  return arrays, normal(2, 3, 2), ids


def loop(x, log_poles, residues, skip, s, ids):
  """The recurrence in numpy, complex128."""
  s, y = s.copy(), np.zeros(x.shape)
  document = [None] * len(x)
  for b, t in np.ndindex(x.shape[:2]):
    if ids[b, t] == 0:
      continue
    if document[b] not in (None, ids[b, t]):
      s[b] = 0
    document[b] = ids[b, t]
    y[b, t] = skip * x[b, t] + np.sum(residues * s[b], axis=-1).real
    s[b] = np.exp(log_poles) * s[b] + x[b, t, :, None]
  return y, s


@functools.partial(jax.jit, static_argnums=0)
def run(form, *args):
  *args, state, ids = args
  return ops.modal_conv(
    *args, initial_state=state, segment_ids=ids, implementation=form
  )


def low(a):
  return a.astype("complex64" if np.iscomplexobj(a) else "float32")


def error(got, want):
  return np.abs(np.asarray(got) - want).max() / np.abs(want).max()


@pytest.mark.parametrize("T", [1, 21])
def test_every_form_is_the_loop(T):
  arrays, state, ids = case(T)
  for row_ids in (None, ids):
    for before in (state, None):
      start = np.zeros_like(state) if before is None else before
      want = loop(*arrays, start, np.ones_like(ids) if row_ids is None else row_ids)
      before = None if before is None else low(before)
      for form in module.IMPLEMENTATIONS:
        got = run(form, *map(low, arrays), before, row_ids)
        assert max(map(error, got, want)) < BUDGET, form


@pytest.mark.parametrize("form", ["chunked", "fft"])
def test_gradients_are_those_of_the_definition_in_float64(form):
  arrays, state, ids = case(21)

  @functools.partial(jax.jit, static_argnums=1)
  @jax.grad
  def gradients(args, form):
    y, last = run(form, *args, ids)
    return jnp.sum(jnp.sin(y)) + jnp.sum(last.real + last.imag)

  with jax.enable_x64():
    args = jax.tree.map(jnp.asarray, [*arrays, state])
    testing.assert_close(gradients(args, form), gradients(args, "recurrent"))


def test_it_is_the_convolution_with_its_filter():
  (x, *modes), _, _ = case(17)
  kernel = module.modal_filter(*map(low, modes), 17)
  want, _ = ops.fft_conv(jnp.asarray(low(x)), kernel)
  testing.assert_close(run("auto", *map(low, (x, *modes)), None, None)[0], want)


def test_wrong_shapes_are_named():
  (x, log_poles, residues, skip), _, _ = case(5)
  with pytest.raises(ValueError, match="modal_conv needs residues .* got shape"):
    ops.modal_conv(x, log_poles, residues[:, :1], skip)
