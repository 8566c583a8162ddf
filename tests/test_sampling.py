import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import models, sampling

LOGITS = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]]))


def frequencies(**options):
  """Of 4,000 draws."""
  keys = jax.random.split(jax.random.key(0), 4000)
  draws = jax.vmap(lambda key: sampling.sample(key, LOGITS, **options)[0])(keys)
  return np.bincount(draws, minlength=4) / 4000


def test_draws_follow_the_softmax():
  np.testing.assert_allclose(frequencies(), [0.5, 0.3, 0.15, 0.05], atol=0.03)


def test_temperature_sharpens_down_to_the_most_likely():
  p = np.array([0.5, 0.3, 0.15, 0.05]) ** 2
  np.testing.assert_allclose(frequencies(temperature=0.5), p / p.sum(), atol=0.03)
  assert frequencies(temperature=0)[0] == 1


def test_no_temperature_is_too_low_to_divide_by():
  assert frequencies(temperature=1e-42)[0] == 1


def test_top_k_keeps_k_tokens():
  np.testing.assert_allclose(frequencies(top_k=2), [0.625, 0.375, 0, 0], atol=0.03)


def test_top_p_keeps_the_first_token_that_passes_p():
  np.testing.assert_allclose(frequencies(top_p=0.6), [0.625, 0.375, 0, 0], atol=0.03)
  assert frequencies(top_p=0.01)[0] == 1


@pytest.mark.parametrize(
  "options",
  [
    dict(temperature=-1),
    dict(temperature=float("nan")),
    dict(top_k=0),
    dict(top_k=5),
    dict(top_p=0.0),
  ],
)
def test_options_out_of_range_are_refused(options):
  (name,) = options
  with pytest.raises(ValueError, match=name):
    sampling.sample(jax.random.key(0), LOGITS, **options)


def count(params, tokens, state, segment_ids=None):
  """A model of ten tokens whose next one is the last plus `params`.

  Its state is the number of calls.
  """
  jax.debug.callback(CALLS.append, state)
  return 20.0 * jax.nn.one_hot((tokens + params) % 10, 10), state + 1


CALLS = []


def counted(prompt, **options):
  """What follows, and in how many calls."""
  CALLS.clear()
  key = jax.random.key(0)
  state = jnp.zeros((), jnp.int32)
  tokens = sampling.generate(count, 1, prompt, state, key, **options)
  jax.effects_barrier()
  assert [int(call) for call in CALLS] == list(range(len(CALLS)))
  return tokens.tolist(), len(CALLS)


def test_each_token_follows_from_the_one_before():
  prompt = jnp.array([[5], [8]])
  want = [[6, 7, 8, 9, 0], [9, 0, 1, 2, 3]]
  assert counted(prompt, num_tokens=5) == (want, 5)
  assert counted(prompt, num_tokens=1) == ([[6], [9]], 1)


def test_a_stop_token_fills_its_sequence_and_ends_the_loop_in_all():
  prompt = jnp.array([[1, 5], [0, 8]])  # One in a prompt stops nothing.
  options = dict(temperature=0.0, stop_token=0)
  want = [[6, 7, 8, 9, 0, 0, 0, 0], [9, 0, 0, 0, 0, 0, 0, 0]]
  assert counted(prompt, num_tokens=8, **options) == (want, 5)
  want = [row[:3] for row in want]
  assert counted(prompt, num_tokens=3, **options) == (want, 3)


@functools.cache
def language_model():
  config = models.BackboneConfig(
    32, 2, ("gated_delta_net", "attention"), dtype=jnp.float32
  )
  model = models.LanguageModel(config, vocab_size=19)
  prompt = jax.random.randint(jax.random.key(1), (2, 7), 0, 19)
  return model, jax.jit(model.init)(jax.random.key(0), prompt), prompt


def greedy(prompt, segment_ids=None):
  model, params, _ = language_model()
  return sampling.generate(
    model.apply,
    params,
    prompt,
    model.initial_state(len(prompt)),
    jax.random.key(0),
    num_tokens=6,
    segment_ids=segment_ids,
    temperature=0.0,
  )


def test_greedy_decoding_is_the_argmax_of_the_full_forward_pass():
  model, params, prompt = language_model()
  tokens = jnp.concatenate([prompt, greedy(prompt)], axis=1)
  logits, _ = jax.jit(model.apply)(params, tokens)
  np.testing.assert_array_equal(logits[:, 6:-1].argmax(-1), tokens[:, 7:])


@pytest.mark.slow
def test_uneven_prompts_are_continued_as_if_alone():
  _, _, prompt = language_model()
  alone = jnp.concatenate([greedy(prompt[:1]), greedy(prompt[1:, :4])])
  right = prompt.at[1, 4:].set(0)
  ids = jnp.ones((2, 7), jnp.int32).at[1, 4:].set(0)
  np.testing.assert_array_equal(greedy(right, ids), alone)
  left = prompt.at[1].set(jnp.roll(right[1], 3))
  np.testing.assert_array_equal(greedy(left, ids.at[1].set(jnp.roll(ids[1], 3))), alone)
