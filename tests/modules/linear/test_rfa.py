import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxseq import registry, testing


def example(name, gate_bias):
  """A mixer whose gates are all sigmoid(gate_bias)."""
  mixer = registry.mixer(name)(features=32, dtype=jnp.float32)
  params, x = testing.example(mixer)
  params = jax.tree.map(lambda p: p, nn.unbox(params))
  gate = params["params"]["gate"]
  gate["kernel"] *= 0
  gate["bias"] = jnp.full_like(gate["bias"], gate_bias)
  return mixer, params, x


def test_a_gate_that_keeps_nothing_returns_the_value_of_the_token_itself():
  mixer, params, x = example("rfa", -30.0)
  params["params"]["q"] = params["params"]["k"]  # So that its weight is one.
  y, _ = jax.jit(mixer.apply)(params, x)
  v, out = params["params"]["v"], params["params"]["out"]
  want = (x @ v["kernel"] + v["bias"]) @ out["kernel"] + out["bias"]
  testing.assert_close(y, want)


def test_a_half_open_gate_halves_the_memory():
  mixer, params, x = example("rfa", 0.0)
  ones = jax.tree.map(jnp.ones_like, mixer.initial_state(2))
  _, last = jax.jit(mixer.apply)(params, x[:, :1], ones)
  _, empty = jax.jit(mixer.apply)(params, x[:, :1])
  left = jax.tree.map(jnp.subtract, last, empty)
  testing.assert_close(left, jax.tree.map(lambda s: s / 2, ones))


def test_between_sentences_the_memory_fades_and_within_one_it_does_not():
  starts = np.zeros((2, testing.LENGTH), bool)
  starts[0, 8], starts[1, 13] = True, True
  mixer, params, x = example("rfa_sentential", 0.0)
  run = jax.jit(mixer.apply)
  ones = jax.tree.map(jnp.ones_like, mixer.initial_state(2))
  whole = run(params, x, ones)[1].z - run(params, x)[1].z
  np.testing.assert_allclose(whole, 1, rtol=1e-3)  # What is left of the ones.
  faded = run(params, x, ones, sentence_starts=starts)[1].z
  faded -= run(params, x, sentence_starts=starts)[1].z
  np.testing.assert_allclose(faded, 0.5, rtol=1e-3)


def test_sentences_that_keep_nothing_are_documents():
  ids = np.ones((2, testing.LENGTH), np.int32)
  ids[0, 8:], ids[1, 13:] = 2, 2
  starts = np.diff(ids, axis=1, prepend=0) != 0
  mixer, params, x = example("rfa_sentential", -40.0)
  y, state = jax.jit(mixer.apply)(params, x, sentence_starts=starts)
  testing.assert_close(
    (y, state), jax.jit(mixer.apply)(params, x, segment_ids=jnp.asarray(ids))
  )
