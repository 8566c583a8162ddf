import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import models, testing

HYBRID = ("gated_delta_net", "attention")


def config(**fields):
  fields = dict(features=32, num_layers=4, pattern=HYBRID, dtype=jnp.float32) | fields
  return models.BackboneConfig(**fields)


@functools.cache
def language_model(**fields):
  model = models.LanguageModel(config(**fields), vocab_size=37)
  tokens = jax.random.randint(jax.random.key(1), (2, 19), 0, 37)
  params = nn.unbox(jax.jit(model.init)(jax.random.key(0), tokens))
  return model, params, tokens


def batch_of(tokens):
  ones = jnp.ones(tokens.shape)
  return dict(
    inputs=tokens,
    targets=jnp.roll(tokens, -1, axis=1),
    weights=ones,
    segment_ids=ones.astype(jnp.int32),
  )


def test_decoding_a_hybrid_stack_gives_the_logits_of_the_whole():
  model, params, tokens = language_model()
  logits, state = jax.jit(model.apply)(params, tokens)
  step = jax.jit(model.apply)
  other = model.initial_state(2)
  for t in range(tokens.shape[1]):
    got, other = step(params, tokens[:, t : t + 1], other)
    testing.assert_close(got[:, 0], logits[:, t], message=f"token {t}")
  testing.assert_close(other, state)


def test_the_loss_is_the_cross_entropy_of_the_logits():
  model, params, tokens = language_model()
  batch = batch_of(tokens)
  loss, sums = jax.jit(lambda p: model.apply(p, batch, method="loss"))(params)
  logits, _ = jax.jit(model.apply)(params, tokens)
  log_p = jax.nn.log_softmax(logits)
  want = -jnp.take_along_axis(log_p, batch["targets"][..., None], -1).sum()
  testing.assert_close(loss, want)
  assert sums["weight"] == tokens.size
  assert sums["accuracy"] == jnp.sum(logits.argmax(-1) == batch["targets"])


def test_the_program_does_not_grow_with_depth():
  size = lambda n: len(
    jax.jit(language_model(num_layers=n)[0].apply)
    .lower(*language_model(num_layers=n)[1:])
    .as_text()
  )
  assert size(8) < 1.05 * size(2)


@functools.cache
def gradients(remat):
  _, params, tokens = language_model()
  model, _, _ = language_model(remat=remat)
  loss = lambda p: model.apply(p, batch_of(tokens), method="loss")[0]
  return jax.jit(jax.grad(loss))(params)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["dots", "full"])
def test_remat_changes_no_gradient(remat):
  testing.assert_close(gradients(remat), gradients("none"))


def test_an_untied_head_is_a_parameter_of_its_own():
  shape = jax.ShapeDtypeStruct((2, 3), jnp.int32)
  for tie, names in [(True, {"embedding"}), (False, {"embedding", "head"})]:
    model = models.LanguageModel(config(), 37, tie_embeddings=tie)
    params = jax.eval_shape(model.init, jax.random.key(0), shape)["params"]
    assert set(params) == names | {"backbone"}


@pytest.mark.parametrize("kind", [models.Classifier, models.Regressor])
@pytest.mark.parametrize("vocab_size", [17, None])
def test_padding_does_not_change_a_pooled_output(kind, vocab_size):
  model = kind(config(num_layers=2), num_outputs=5, vocab_size=vocab_size)
  if vocab_size:
    x = jax.random.randint(jax.random.key(0), (2, 11), 0, vocab_size)
  else:
    x = jax.random.normal(jax.random.key(0), (2, 11, 3))
  params = jax.jit(model.init)(jax.random.key(1), x)
  padded = jnp.concatenate([x, x[:, :4]], axis=1)
  ids = jnp.ones((2, 15), jnp.int32).at[:, 11:].set(0)
  got = jax.jit(model.apply)(params, padded, segment_ids=ids)
  testing.assert_close(got, jax.jit(model.apply)(params, x))


@pytest.mark.slow
def test_the_losses_of_pooled_models_leave_out_weightless_rows():
  x = jax.random.normal(jax.random.key(0), (3, 7, 2))
  ids, weights = jnp.ones((3, 7), jnp.int32), jnp.array([1.0, 0.0, 1.0])
  classes = jnp.array([0, 1, 4])
  batch = dict(inputs=x, targets=classes, weights=weights, segment_ids=ids)
  model = models.Classifier(config(num_layers=2), num_outputs=5)
  params = jax.jit(model.init)(jax.random.key(1), x)
  loss, sums = jax.jit(lambda p: model.apply(p, batch, method="loss"))(params)
  log_p = jax.nn.log_softmax(jax.jit(model.apply)(params, x))
  np.testing.assert_allclose(loss, -(log_p[0, 0] + log_p[2, 4]), rtol=1e-5)
  assert sums["weight"] == 2
  model = models.Regressor(config(num_layers=2), num_outputs=5)
  batch["targets"] = jnp.zeros((3, 5))
  loss, _ = jax.jit(lambda p: model.apply(p, batch, method="loss"))(params)
  y = jax.jit(model.apply)(params, x)
  np.testing.assert_allclose(loss, (y[0] ** 2).mean() + (y[2] ** 2).mean(), rtol=1e-5)


@pytest.mark.parametrize(
  "fields, words",
  [
    (dict(pattern=("gated_deltanet",)), "did you mean gated_delta_net"),
    (dict(num_layers=3), "multiple of the 2 layers"),
    (dict(mlp="gelu"), "mlp must be one of"),
    (dict(mlp=("none", "gelu")), "mlp must be one of .* got 'gelu'"),
    (dict(mlp=("none",)), "one for each of .* got .'none'"),
    (dict(remat="all"), "remat must be one of"),
    (
      dict(mixer_options={"attention": {"heads": 3}}),
      "attention has no attribute heads",
    ),
    (dict(mixer_options={"atention": {}}), "did you mean attention"),
  ],
)
def test_a_wrong_stack_is_refused_by_name(fields, words):
  with pytest.raises(ValueError, match=words):
    config(**fields)


def test_the_losses_of_routers_come_out_of_the_scanned_stack():
  model, params, tokens = language_model(pattern=("mom",), num_layers=2, mlp="none")
  apply = functools.partial(model.apply, method="loss", mutable=["losses"])
  _, sown = jax.jit(apply)(params, batch_of(tokens))
  (loss,) = jax.tree.leaves(sown)
  assert loss.shape == (2,) and (loss >= 1 - 1e-5).all()  # One a layer; 1 is balance.


def test_a_language_model_of_mixers_that_see_the_future_is_refused():
  with pytest.raises(ValueError, match="causal mixers; vig sees"):
    models.LanguageModel(config(pattern=("vig",)), vocab_size=37)
