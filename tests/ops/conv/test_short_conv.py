import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseq import ops, testing

ORACLES = pathlib.Path(__file__).parents[2] / "oracles"


def case(T=11, D=5, taps=4):
  rng = np.random.default_rng(0)
  shapes = (2, T, D), (taps, D), (D,), (2, taps - 1, D)
  return [jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes]


def run(x, weight, bias, state, ids, form):
  return ops.short_conv(
    x,
    weight,
    bias,
    activation="silu",
    initial_state=state,
    segment_ids=ids,
    implementation=form,
  )


def rows_of_documents(rng, T):
  """Documents of random lengths with padding before, between and after."""
  ids = np.zeros((2, T), np.int32)
  for row in ids:
    t = rng.integers(0, 3)
    for number in range(1, 6):
      length = rng.integers(1, 7)
      row[t : t + length] = number
      t += length + rng.integers(0, 3)
  return jnp.asarray(ids)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.integers(1, 20), st.integers(1, 4), st.booleans(), st.booleans())
def test_the_forms_agree_with_their_gradients(T, taps, packed, given_state):
  x, weight, bias, state = case(T=T, taps=taps)
  ids = rows_of_documents(np.random.default_rng(T), T) if packed else None
  state = state if given_state else None

  def loss(form, x, weight, bias):
    y, last = run(x, weight, bias, state, ids, form)
    return jnp.sum(jnp.sin(y)) + jnp.sum(last**2), (y, last)

  grad = jax.value_and_grad(loss, argnums=(1, 2, 3), has_aux=True)
  both = jax.jit(lambda *args: [grad(f, *args) for f in ("parallel", "recurrent")])
  testing.assert_close(*both(x, weight, bias))


def test_it_is_numpys_convolution():
  x, weight, bias, _ = case()
  y, state = ops.short_conv(x, weight, bias)
  for b in range(2):
    for d in range(5):
      want = np.convolve(x[b, :, d], weight[::-1, d])[:11] + bias[d]
      np.testing.assert_allclose(y[b, :, d], want, atol=1e-5)
  np.testing.assert_array_equal(state, x[:, -3:])


def test_it_is_the_convolution_of_lfm2():
  oracle = np.load(ORACLES / "hf_short_conv.npz")
  B, C, x = jnp.split(oracle["x"] @ oracle["in_proj.weight"].T, 3, axis=-1)
  y, _ = ops.short_conv(B * x, jnp.asarray(oracle["conv.weight"][:, 0].T))
  np.testing.assert_allclose(
    (C * y) @ oracle["out_proj.weight"].T, oracle["y"], atol=1e-6
  )


def test_a_dilated_convolution_is_one_with_zeros_between_the_taps():
  x, weight, bias, _ = case(T=17)
  apart = jnp.zeros((10, 5)).at[::3].set(weight)
  state = jax.random.normal(jax.random.key(1), (2, 9, 5))
  run = jax.jit(ops.short_conv, static_argnames=("dilation", "implementation"))
  for ids in (None, rows_of_documents(np.random.default_rng(2), 17)):
    options = dict(initial_state=state, segment_ids=ids)
    want = run(x, apart, bias, **options)
    for form in ("parallel", "recurrent"):
      got = run(x, weight, bias, dilation=3, **options, implementation=form)
      testing.assert_close(got, want)


def test_what_padding_holds_does_not_matter():
  x, weight, bias, state = case()
  ids = rows_of_documents(np.random.default_rng(1), 11)
  garbage = jnp.where(ids[..., None] == 0, jnp.nan, x)
  for form in ("parallel", "recurrent"):
    got = run(garbage, weight, bias, state, ids, form)
    testing.assert_close(got, run(x, weight, bias, state, ids, form))


def test_wrong_arguments_are_named():
  x, weight, bias, _ = case()
  with pytest.raises(ValueError, match="needs weight"):
    ops.short_conv(x, weight[:, :3], bias)
  with pytest.raises(ValueError, match=r"initial_state \[B, W - 1, D\] = \(2, 3, 5\)"):
    ops.short_conv(x, weight, initial_state=x[:, :2])
  with pytest.raises(ValueError, match=r"initial_state \[B, \(W - 1\) x 2, D\]"):
    ops.short_conv(x, weight, dilation=2, initial_state=x[:, :3])
  with pytest.raises(ValueError, match="dilation >= 1"):
    ops.short_conv(x, weight, dilation=0)
  with pytest.raises(ValueError, match="activation"):
    ops.short_conv(x, weight, activation="gelu")
