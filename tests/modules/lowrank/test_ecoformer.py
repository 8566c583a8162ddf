import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing
from jaxseq.modules.lowrank import EcoFormer, ecoformer


def test_weights_count_the_bits_in_which_codes_agree():
  mixer = EcoFormer(features=32, dtype=jnp.float32)
  params, x = testing.example(mixer)
  y, _ = jax.jit(mixer.apply)(params, x)
  p = jax.tree.map(np.float64, nn.unbox(params)["params"])
  qk = (np.float64(x) @ p["qk"]["kernel"]).reshape(2, -1, 4, 8)
  qk /= np.linalg.norm(qk, axis=-1, keepdims=True)
  h = p["hash"]
  square = np.sum((qk[..., None, :] - h["anchors"]) ** 2, axis=-1)
  kernels = np.exp(-square / (2 * h["bandwidth"][:, None])) - h["mean"]
  codes = np.einsum("bths,hrs->bhtr", kernels, h["weights"]) > 0
  agree = np.sum(codes[..., :, None, :] == codes[..., None, :, :], axis=-1)
  A = np.tril(2 * agree + 1)  # h_t^T h_j + b + 1 is twice that and one.
  v = (np.float64(x) @ p["v"]["kernel"]).reshape(2, -1, 4, 8)
  o = np.einsum("bhts,bshv->bthv", A / A.sum(-1, keepdims=True), v).reshape(x.shape)
  testing.assert_close(y, o @ p["out"]["kernel"] + p["out"]["bias"])


def test_gradients_pass_through_the_sign_to_the_projection_alone():
  mixer = EcoFormer(features=32, dtype=jnp.float32)
  params, x = testing.example(mixer)
  loss = lambda params: jnp.sum(mixer.apply(params, x)[0] ** 2)
  grads = nn.unbox(jax.jit(jax.grad(loss))(params))["params"]
  assert np.abs(grads["qk"]["kernel"]).max() > 1e-3
  assert not any(np.abs(g).any() for g in jax.tree.leaves(grads["hash"]))


def test_learned_codes_tell_like_tokens_from_unlike_ones_better():
  mixer = EcoFormer(features=32, num_bits=8, num_anchors=20, dtype=jnp.float32)
  x = jax.random.normal(jax.random.key(1), (2, 48, 32))
  params = jax.jit(mixer.init)(jax.random.key(0), x)
  learned = ecoformer.learn_hash(mixer, params, x, jax.random.key(2), num_pairs=6)
  assert jax.tree.structure(learned) == jax.tree.structure(params)

  @jax.jit
  def contrast(params):
    """Bits in which the codes of the likest agree more than those of the unlikest."""
    _, sown = mixer.apply(params, x, mutable=["hashed"])
    qk = sown["hashed"]["directions"][0]
    order = jnp.argsort(jnp.einsum("bthk,bshk->bhts", qk, qk), axis=-1)
    codes = sown["hashed"]["codes"][0]
    products = jnp.einsum("bthr,bshr->bhts", codes, codes)
    ranked = jnp.take_along_axis(products, order, axis=-1)
    return jnp.mean(ranked[..., -7:-1]) - jnp.mean(ranked[..., :6])

  assert contrast(learned) > contrast(params) + 0.5


def test_wider_heads_cost_no_multiplications_but_the_last_division():
  counts = {
    size: ecoformer.operation_counts(EcoFormer(features=size, num_heads=1), 100)
    for size in (32, 64)
  }
  more = [b - a for a, b in zip(counts[32], counts[64])]
  assert more == [100 * 32, 100 * (2 * 25 * 32 + 2 * 16 * 32 + 32)]


def test_it_takes_less_energy_than_softmax_attention_on_the_paper_s_images():
  mixer = EcoFormer(features=32, num_heads=1)  # The first stage of PVTv2-B0.
  hashed = ecoformer.operation_counts(mixer, 56 * 56)
  softmax = ecoformer.softmax_operation_counts(mixer, 56 * 56)
  assert hashed.multiplications == 3136 * (2 * 25 + 25 * 16 + 16 + 1 + 32)
  assert softmax.multiplications == 3136**2 * 65
  assert hashed.energy_picojoules < softmax.energy_picojoules / 100


def test_too_few_tokens_to_learn_from_are_refused():
  mixer = EcoFormer(features=32, dtype=jnp.float32)
  params, x = testing.example(mixer)
  with pytest.raises(ValueError, match="at least 25 tokens.*got 21"):
    ecoformer.learn_hash(mixer, params, x, jax.random.key(0))
