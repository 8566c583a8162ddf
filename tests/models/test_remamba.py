import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import models, testing

CONFIG = models.BackboneConfig(
  features=32, num_layers=2, pattern=("mamba",), mlp="none", dtype=jnp.float32
)


def begin(**fields):
  model = models.ReMamba(CONFIG, vocab_size=11, **fields)
  tokens = np.random.default_rng(0).integers(0, 11, (2, 20))
  params = nn.unbox(jax.jit(model.init)(jax.random.key(0), tokens))
  return model, params, jnp.asarray(tokens)


def plain(params, x):
  """The stack without the second pass, from embeddings."""
  layers = {k: v for k, v in params["params"]["layers"].items() if "theta" not in k}
  inside = {"layers": layers, "final_norm": params["params"]["final_norm"]}
  return models.Backbone(CONFIG).apply({"params": inside}, x)


def test_the_chosen_are_those_nearest_to_the_end_of_the_prompt():
  model, params, tokens = begin(share=0.5, ratio=0.3)
  p = params["params"]
  embedded = p["embedding"][tokens]
  h, _ = jax.jit(plain)(params, embedded)

  def network(name, x):
    first, last = (p[f"{name}"][f"layers_{i}"] for i in (0, 2))
    return nn.silu(x @ first["kernel"] + first["bias"]) @ last["kernel"] + last["bias"]

  q, k = network("query", h[:, -1]), network("key", h[:, :10])
  size = lambda a: np.linalg.norm(a, axis=-1)
  scores = np.einsum("btd,bd->bt", k, q) / size(k) / size(q)[:, None]
  places = np.sort(np.argsort(-scores, axis=1)[:, :3], axis=1)
  chosen = network("value", np.take_along_axis(np.asarray(h), places[..., None], 1))
  scores = np.take_along_axis(scores, places, axis=1)
  got, got_scores = model.apply(params, h, 10, 3, method="_compress")
  testing.assert_close((got, got_scores), (chosen, jnp.asarray(scores)))
  # With scores of one the second pass is the plain stack over what they stand for.
  x = jnp.concatenate([chosen, embedded[:, 10:]], axis=1)
  ones = jnp.ones((2, 3))
  got = model.apply(params, x, scores=ones, method="_run")
  testing.assert_close(got, plain(params, x))


def test_scores_have_gradients_and_the_rest_of_the_prompt_is_read():
  model, params, tokens = begin(prompt_length=12, share=0.5, ratio=0.5)
  batch = dict(inputs=tokens, targets=tokens, weights=jnp.ones(tokens.shape))
  loss = lambda params: model.apply(params, batch, method="loss")
  grads, metrics = jax.jit(jax.grad(loss, has_aux=True))(params)
  assert metrics["weight"] == 2 * (20 - 6)
  for name in ("query", "key", "value"):
    kernel = grads["params"][name]["layers_0"]["kernel"]
    assert jnp.abs(kernel).max() > 0, name
  assert jnp.abs(grads["params"]["layers"]["theta_0"]).max() > 0


def test_an_answer_is_decoded_from_the_state_of_the_second_pass():
  model, params, tokens = begin(prompt_length=12)
  whole, last = jax.jit(model.apply)(params, tokens)
  assert whole.shape == (2, 20 - model.num_compressed(20), 11)
  prompt, state = jax.jit(model.apply)(params, tokens[:, :12])

  def step(state, token):
    logits, state = model.apply(params, token[:, None], state)
    return state, logits[:, 0]

  decode = jax.jit(lambda state: jax.lax.scan(step, state, tokens[:, 12:].T))
  state, answer = decode(state)
  got = jnp.concatenate([prompt, answer.swapaxes(0, 1)], axis=1)
  testing.assert_close((got, state), (whole, last))


def test_wrong_fields_are_named():
  other = models.BackboneConfig(32, 2, ("mamba", "mamba2"))
  with pytest.raises(ValueError, match="a pattern of mamba alone; got mamba,mamba2"):
    models.ReMamba(other, vocab_size=11)
  with pytest.raises(ValueError, match="share and ratio in"):
    models.ReMamba(CONFIG, vocab_size=11, share=0.0)
  model, params, tokens = begin(prompt_length=12)
  with pytest.raises(ValueError, match="the prompt of 12 tokens .* got 11"):
    jax.eval_shape(model.apply, params, tokens[:, :11])
