import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseq import beam_search, models, testing
from jaxseq.modules.rnn import LSTM

pytestmark = pytest.mark.slow


def model(**fields):
  fields = dict(vocab_size=11, features=8, num_layers=2, dtype=jnp.float32) | fields
  return models.RecurrentEncoderDecoder(**fields)


@functools.cache
def example(**fields):
  draw = lambda key, n: jax.random.randint(jax.random.key(key), (2, n), 1, 11)
  source, tokens = draw(1, 6), draw(2, 5)
  params = nn.unbox(jax.jit(model(**fields).init)(jax.random.key(0), source, tokens))
  # Larger, so that everything matters.
  return jax.tree.map(lambda p: 3 * p, params), source, tokens


def test_it_is_its_layers_one_on_another_from_the_last_states_of_the_source():
  params, source, tokens = example(attention="general")
  got, _ = jax.jit(model(attention="general").apply)(params, source, tokens)
  p = params["params"]
  layer = jax.jit(LSTM(features=8, dtype=jnp.float32).apply)
  of = lambda stack, i: {"params": jax.tree.map(lambda a: a[i], p[stack]["mixer"])}
  encoded, states = p["source_embedding"][source[:, ::-1]], []
  for i in (0, 1):
    encoded, state = layer(of("encoder", i), encoded)
    states.append(state)
  h = p["target_embedding"][tokens]
  for i in (0, 1):
    h, _ = layer(of("decoder", i), h, states[i])
  scores = np.einsum("btd,de,bse->bts", h, p["score"]["kernel"].T, encoded)
  shares = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
  both = np.concatenate([shares @ np.asarray(encoded), h], axis=-1)
  want = np.tanh(both @ p["combine"]["kernel"]) @ p["output"].T
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ["none", "dot"])
def test_padding_of_the_source_is_ignored_wherever_it_is(attention):
  params, source, tokens = example(attention=attention)
  run = jax.jit(model(attention=attention).apply)
  padded = jnp.pad(source, ((0, 0), (2, 1)), constant_values=7)
  mask = jnp.zeros(padded.shape, bool).at[:, 2:-1].set(True)
  want, last = run(params, source, tokens)
  got, state = run(params, padded, tokens, mask)
  testing.assert_close((got, state.mixers), (want, last.mixers))


def test_a_source_read_from_its_end_is_the_reversed_source():
  params, source, tokens = example()
  want, _ = jax.jit(model().apply)(params, source[:, ::-1], tokens)
  got, _ = jax.jit(model(reverse_source=False).apply)(params, source, tokens)
  testing.assert_close(got, want)


def reversal(key):
  """Sources of 3 tokens of 1 to 7; 0 begins and ends a target."""
  source = jax.random.randint(key, (32, 3), 1, 8)
  targets = jnp.pad(source[:, ::-1], ((0, 0), (0, 1)))
  inputs = jnp.pad(source[:, ::-1], ((0, 0), (1, 0)))
  ones = jnp.ones(source.shape, bool)
  weights = jnp.ones(targets.shape)
  return dict(
    source=source, source_mask=ones, inputs=inputs, targets=targets, weights=weights
  )


def test_it_learns_to_write_the_source_backwards_and_beams_write_it():
  writer = model(vocab_size=8, features=64, num_layers=1, attention="general")
  batch = reversal(jax.random.key(0))
  params = nn.unbox(
    jax.jit(writer.init)(jax.random.key(1), batch["source"], batch["inputs"])
  )
  optimizer = optax.adam(1e-2)

  @jax.jit
  def train(params):
    def step(carry, key):
      params, state = carry
      loss = lambda params: writer.apply(params, reversal(key), method="loss")[0]
      grads = jax.grad(loss)(params)
      updates, state = optimizer.update(grads, state)
      return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(2), 200)
    return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

  params = train(params)
  state = jax.jit(functools.partial(writer.apply, method="encode"))(
    params, batch["source"]
  )
  decode = functools.partial(writer.apply, method="decode")
  args = decode, params, batch["inputs"][:, :1], state
  options = dict(stop_token=0, state_axes=writer.STATE_AXES)
  beams = beam_search.beam_search(*args, beam_size=3, num_tokens=6, **options)
  right = (beams.tokens[:, 0] == jnp.pad(batch["targets"], ((0, 0), (0, 2)))).all(1)
  assert right.mean() > 0.9
  # Their states followed them.
  got = beam_search.log_probabilities(*args, beams.tokens, **options)
  np.testing.assert_allclose(got, beams.scores, rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match="attention must be one of .* got 'additive'"):
    model(attention="additive")
  with pytest.raises(ValueError, match="a causal mixer with a state, not vig"):
    model(mixer="vig")
