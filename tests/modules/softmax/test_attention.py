import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing
from jaxseq.modules.softmax import Attention, SlidingWindowAttention

ORACLES = pathlib.Path(__file__).parents[2] / "oracles"

attention = functools.partial(Attention, features=16, dtype=jnp.float32)


def test_values_and_gradients_are_those_of_llama_in_the_transformers_package():
  case = np.load(ORACLES / "hf_llama_attn.npz")
  kernel = lambda name: {"kernel": jnp.asarray(case[f"{name}_proj.weight"].T)}
  params = dict(q=kernel("q"), k=kernel("k"), v=kernel("v"), out=kernel("o"))
  mixer = attention(num_heads=4, num_kv_heads=2, head_dim=8)

  def loss(params, x):
    y, _ = jax.jit(mixer.apply)({"params": params}, x)
    return jnp.sum(y * case["cot_y"]), y

  grad = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
  (by_params, by_x), y = grad(params, case["x"])
  testing.assert_close(y, case["y"])
  testing.assert_close(by_x, case["grad_x"])
  for name in "qk":
    want = case[f"grad_{name}_proj.weight"].T
    testing.assert_close(by_params[name]["kernel"], want)


RING = SlidingWindowAttention(features=16, dtype=jnp.float32, window=4)
SHARED = attention(num_kv_heads=1, head_dim=6, max_length=testing.LENGTH)


# The contract suite has no window as short as its sequences, and no grouped heads.
@pytest.mark.parametrize(
  "mixer, check",
  [
    (RING, "decoding_from_the_initial_state_gives_what_the_whole_gives"),
    (RING, "packed_documents_are_separate_documents"),
    (RING, "gradients_pass_through_a_split"),
    (SHARED, "decoding_from_the_initial_state_gives_what_the_whole_gives"),
    (SHARED, "packed_documents_are_separate_documents"),
  ],
)
def test_contract(mixer, check):
  testing.CHECKS[check](mixer)


def test_a_window_hides_what_is_further_back():
  params, x = testing.example(RING)
  apply = jax.jit(RING.apply)
  y, state = apply(params, x)
  z, _ = apply(params, x.at[:, 5].add(1.0))
  changed = np.abs(z - y).max(axis=(0, 2)) > 0
  np.testing.assert_array_equal(np.flatnonzero(changed), [5, 6, 7, 8])
  assert state.k.shape[1] == 4
  wide = SlidingWindowAttention(features=16, dtype=jnp.float32, window=testing.LENGTH)
  testing.assert_close(
    jax.jit(wide.apply)(params, x)[0], jax.jit(attention().apply)(params, x)[0]
  )


def test_without_positions_the_order_of_the_past_is_unseen():
  for theta, same in ((None, True), (10000.0, False)):
    mixer = attention(rotary_theta=theta)
    params, x = testing.example(mixer)
    apply = jax.jit(mixer.apply)
    y, _ = apply(params, x)
    z, _ = apply(params, jnp.concatenate([x[:, -2::-1], x[:, -1:]], axis=1))
    assert np.allclose(z[:, -1], y[:, -1], atol=1e-5) == same


def test_no_document_outgrows_the_cache():
  mixer = attention(max_length=8)
  params, x = testing.example(attention())
  apply = jax.jit(mixer.apply)
  with pytest.raises(ValueError, match="at least the 9 tokens of a call; got 8"):
    apply(params, x[:, :9])
  y, state = apply(params, x[:, :8])
  assert np.isfinite(y).all()
  for t in (8, 9):
    y, state = apply(params, x[:, t : t + 1], state)
    assert np.isnan(y).all()
  # A new document begins anew.
  ids = jnp.full((2, 5), 1).at[:, 2:].set(2)
  y, state = apply(params, x[:, :5], state, segment_ids=ids)
  assert np.isnan(y[:, :2]).all()
  want, _ = apply(params, x[:, 2:5])
  testing.assert_close(y[:, 2:], want)
  assert state.length.tolist() == [3, 3]


@pytest.mark.parametrize(
  "attributes, words",
  [
    (dict(num_heads=3), "num_heads that divide features = 16; got 3"),
    (
      dict(num_heads=4, num_kv_heads=3),
      "num_kv_heads that divide num_heads = 4; got 3",
    ),
    (dict(num_kv_heads=0), "num_kv_heads >= 1; got 0"),
    (dict(num_heads=0), "num_heads >= 1; got 0"),
    (dict(head_dim=5), "an even head_dim to rotate; got 5"),
  ],
)
def test_attributes_that_do_not_fit_are_refused_in_words(attributes, words):
  with pytest.raises(ValueError, match=f"Attention needs {words}"):
    attention(**attributes)
