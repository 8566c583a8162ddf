import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseq import models, testing

pytestmark = pytest.mark.slow

SOURCE_LENGTH, LENGTH = 13, 9


def stack(*pattern, **fields):
  fields = dict(features=32, num_layers=4, dtype=jnp.float32) | fields
  return models.BackboneConfig(pattern=pattern, **fields)


@functools.cache
def example(*decoder):
  model = models.EncoderDecoder(
    stack("bidirectional_linear_transformer", num_layers=2), stack(*decoder), 17
  )
  draw = lambda key, n: jax.random.randint(jax.random.key(key), (2, n), 1, 17)
  source, tokens = draw(1, SOURCE_LENGTH), draw(2, LENGTH)
  params = nn.unbox(jax.jit(model.init)(jax.random.key(0), source, tokens))
  return model, params, source, tokens


@pytest.mark.parametrize("decoder", [("linear_transformer",), ("rfa", "attention")])
def test_decoding_token_by_token_gives_the_logits_of_the_whole(decoder):
  model, params, source, tokens = example(*decoder)
  logits, last = jax.jit(model.apply)(params, source, tokens)
  state = jax.jit(functools.partial(model.apply, method="encode"))(params, source)
  step = jax.jit(functools.partial(model.apply, method="decode"))
  for t in range(LENGTH):
    got, state = step(params, tokens[:, t : t + 1], state)
    testing.assert_close(got[:, 0], logits[:, t], message=f"token {t} ")
  testing.assert_close(state, last)


def test_padding_of_the_source_is_ignored_wherever_it_is():
  model, params, source, tokens = example("linear_transformer")
  run = jax.jit(model.apply)
  want, _ = run(params, source, tokens)
  padding = jnp.zeros_like(source[:, :3])
  padded = jnp.concatenate([padding, source, padding], axis=1)
  mask = jnp.ones_like(padded, bool).at[:, :3].set(False).at[:, -3:].set(False)
  got, _ = run(params, padded, tokens, mask)
  testing.assert_close(got, want)
  unmasked, _ = run(params, padded, tokens)
  assert np.abs(unmasked - want).max() > 1e-2


def test_the_order_of_the_source_matters():
  model, params, source, tokens = example("linear_transformer")
  run = jax.jit(model.apply)
  got, _ = run(params, source[:, ::-1], tokens)
  assert np.abs(got - run(params, source, tokens)[0]).max() > 1e-2


def test_the_state_does_not_grow_with_the_source_or_the_target():
  model, params, source, tokens = example("linear_transformer")
  shapes = lambda tree: jax.tree.map(lambda s: (s.shape, s.dtype), tree)
  _, state = jax.eval_shape(model.apply, params, source, tokens)
  long = jnp.tile(source, (1, 10))
  _, other = jax.eval_shape(model.apply, params, long, long)
  encoded = jax.eval_shape(
    functools.partial(model.apply, method="encode"), params, long
  )
  assert shapes(state) == shapes(other) == shapes(encoded)


def test_it_learns_to_write_the_source_backwards():
  model = models.EncoderDecoder(
    stack("bidirectional_linear_transformer", num_layers=1, features=64),
    stack("linear_transformer", num_layers=1, features=64),
    vocab_size=8,
  )

  def batch_of(key):
    source = jax.random.randint(key, (32, 3), 1, 8)
    targets = source[:, ::-1]
    inputs = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))
    ones = jnp.ones(source.shape)
    return dict(
      source=source,
      source_mask=ones.astype(bool),
      inputs=inputs,
      targets=targets,
      weights=ones,
    )

  batch = batch_of(jax.random.key(0))
  params = nn.unbox(
    jax.jit(model.init)(jax.random.key(1), batch["source"], batch["inputs"])
  )
  optimizer = optax.adam(5e-3)

  @jax.jit
  def train(params):
    def step(carry, key):
      params, state = carry
      batch = batch_of(key)

      def loss(params):
        loss, sums = model.apply(params, batch, method="loss")
        return loss / sums["weight"], sums["accuracy"] / sums["weight"]

      (_, accuracy), grads = jax.value_and_grad(loss, has_aux=True)(params)
      updates, state = optimizer.update(grads, state)
      return (optax.apply_updates(params, updates), state), accuracy

    keys = jax.random.split(jax.random.key(2), 200)
    return jax.lax.scan(step, (params, optimizer.init(params)), keys)[1]

  accuracy = train(params)
  assert accuracy[0] < 0.3
  assert accuracy[-10:].mean() > 0.95


def test_a_train_step_compiles_in_bfloat16_with_remat():
  low = dict(dtype=jnp.bfloat16, remat="full")
  model = models.EncoderDecoder(
    stack("bidirectional_linear_transformer", **low), stack("rfa", **low), 17
  )
  _, params, source, tokens = example("rfa")
  batch = dict(source=source, source_mask=source > 0, inputs=tokens, targets=tokens)
  batch["weights"] = jnp.ones(tokens.shape)
  params = jax.eval_shape(model.init, jax.random.key(0), source, tokens)
  grad = jax.jit(jax.grad(lambda p: model.apply(p, batch, method="loss")[0]))
  shapes = lambda tree: jax.tree.map(lambda s: (s.shape, s.dtype), nn.unbox(tree))
  assert shapes(grad.lower(params).compile().out_info) == shapes(params)


def test_what_does_not_fit_is_refused():
  causal, both = stack("linear_transformer"), stack("bidirectional_linear_transformer")
  with pytest.raises(ValueError, match="bidirectional_linear_transformer sees"):
    models.EncoderDecoder(both, both, 17)
  with pytest.raises(ValueError, match="same even features, .* got 32, 64 and 4"):
    models.EncoderDecoder(both, stack("linear_transformer", features=64), 17)
  with pytest.raises(ValueError, match="num_heads divide"):
    models.EncoderDecoder(both, causal, 17, num_heads=5)
