import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import positions, testing
from jaxseq.modules.conv import BidirectionalMega, Mega, gated_attention

ORACLE = pathlib.Path(__file__).parents[2] / "oracles" / "mega_attn.npz"


class PaperMega(Mega):
  """With the moving average alone, as it is in the paper."""

  def _move(self, x, state, segment_ids):
    return self._average(x, "", state, segment_ids)


class Moving(BidirectionalMega):
  """What stands before the attention."""

  @nn.compact
  def __call__(self, x):
    return self._move(x, None, None)[0]


class Biases(BidirectionalMega):
  """Those of the distances."""

  @nn.compact
  def __call__(self):
    return gated_attention._distance_bias(self, causal=False)


def mega_pytorch(oracle, prefix, scale):
  """Our parameters from those of the package mega-pytorch.

  Its moving averages have one decay for all channels of a dimension, (1 - a) d, and its
  queries are scaled by the width of the model.
  """
  get = lambda name: oracle[f"{prefix}.{name}"].astype(np.float64)
  sigmoid = lambda x: 1 / (1 + np.exp(-x))
  a, d = (sigmoid(get(f"multi_headed_ema.{n}")) for n in ("alphas", "dampen_factors"))
  root = np.sqrt(1 - (1 - a) * d)  # alpha and delta of ours are both this.
  logit = np.broadcast_to(np.log(root / (1 - root)), (8, 3))
  linear = lambda name: {"kernel": get(f"{name}.weight").T, "bias": get(f"{name}.bias")}
  head = "single_headed_attn"
  factor = np.array([[scale], [1]])
  table = get(f"{head}.rel_pos_bias.relative_attention_bias.weight")[:12, 0]
  params = {
    "alpha": logit,
    "delta": logit,
    "beta": get("multi_headed_ema.expansion").T * a / root,
    "eta": get("multi_headed_ema.reduction").T * np.sqrt(3),
    "kappa": get(f"{head}.offsetscale.gamma") * factor,
    "mu": get(f"{head}.offsetscale.beta") * factor,
    "bias": 2 * table,
    "z": linear(f"{head}.to_qk.0"),
    "v": linear(f"{head}.to_v.0"),
    "reset": linear("to_reset_gate.0"),
    "update": linear("to_update_gate.0"),
    "h": {"kernel": get("Wh"), "bias": np.zeros(8)},
    "out": {"kernel": get("Uh"), "bias": get("bh")},
  }
  return {"params": jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params)}


@pytest.mark.parametrize("activation, prefix", [("softmax", 0), ("laplace", 1)])
def test_it_is_the_layer_of_mega_pytorch(activation, prefix):
  oracle = np.load(ORACLE)
  mixer = PaperMega(
    features=8,
    key_size=4,
    value_size=10,
    ema_size=3,
    activation=activation,
    norm=None,
    max_length=12,
    dtype=jnp.float32,
  )
  x = jnp.asarray(oracle["x"])
  # Scaled by 8^-1/2 there, by 4^-1/2 here; by 1 / 12 at all tokens there with Laplace,
  # at the last one here.
  factor, seen = (
    (2**-0.5, slice(None)) if activation == "softmax" else (1, slice(11, 12))
  )
  params = mega_pytorch(oracle, f"lap{prefix}", factor)
  y, _ = jax.jit(mixer.apply)(params, x)
  want = oracle["y_softmax" if activation == "softmax" else "y_laplacian"]
  np.testing.assert_allclose(y[:, seen], want[:, seen], rtol=1e-4, atol=1e-5)


def test_the_moving_averages_are_those_of_the_authors_code():
  mixer = Moving(features=4, ema_size=3, dtype=jnp.float32)
  x = np.random.default_rng(0).normal(size=(2, 9, 4)).astype(np.float32)
  params = jax.jit(mixer.init)(jax.random.key(0), x)
  got = jax.jit(mixer.apply)(params, x)
  p = {k: np.asarray(v, np.float64) for k, v in nn.unbox(params)["params"].items()}
  want = p["omega"] * x
  for direction in ("", "backward_"):
    alpha, delta = (1 / (1 + np.exp(-p[direction + n])) for n in ("alpha", "delta"))
    h = np.zeros((2, 4, 3))
    times = range(9) if not direction else range(8, -1, -1)
    for t in times:
      h = alpha * p[direction + "beta"] * x[:, t, :, None] + (1 - alpha * delta) * h
      want[:, t] += np.sum(p[direction + "eta"] / np.sqrt(3) * h, axis=-1)
  np.testing.assert_allclose(got, want / (1 + np.exp(-want)), rtol=1e-4, atol=1e-6)


def test_the_rotary_bias_is_a_product_of_turned_vectors():
  mixer = Biases(features=4, position_bias="rotary", max_length=7)
  params = jax.jit(mixer.init)(jax.random.key(0))
  bias = jax.jit(mixer.apply)(params)[0]
  a, b = (nn.unbox(params)["params"][f"bias_{n}"] for n in "qk")
  turn = jax.jit(
    lambda v: positions.rotary(
      jnp.broadcast_to(v, (1, 7, 1, len(v))), jnp.arange(7)[None]
    )[0, :, 0]
  )
  t, s = np.indices((7, 7))
  np.testing.assert_allclose(bias[t - s + 6], turn(a) @ turn(b).T, atol=1e-6)


CHECKS = (
  "a_split_sequence_gives_what_the_whole_gives",
  "packed_documents_are_separate_documents",
)


@pytest.mark.parametrize("check", CHECKS)
def test_chunks_of_the_laplace_attention_keep_the_contract(check):
  mixer = Mega(
    features=32,
    key_size=8,
    ema_size=2,
    chunk_size=4,
    activation="laplace",
    position_bias="rotary",
    norm="scale",
    norm_first=False,
    implementation="recurrent",
    dtype=jnp.float32,
  )
  assert mixer.initial_state(2).cache.k.shape == (2, 4, 1, 8)
  testing.CHECKS[check](mixer)


def test_wrong_attributes_are_named():
  for message, change in (
    ("activation in", dict(activation="relu")),
    ("position_bias in", dict(position_bias="alibi")),
    ("norm in", dict(norm="batch")),
    ("chunk_size >= 1", dict(chunk_size=0)),
    ("ema_size >= 1", dict(ema_size=0)),
    ("even key_size", dict(key_size=7, position_bias="rotary")),
  ):
    with pytest.raises(ValueError, match=f"Mega needs .*{message}"):
      Mega(features=8, **change)
  x = jnp.zeros((1, 9, 8))
  with pytest.raises(ValueError, match="max_length of at least the 9 tokens"):
    jax.eval_shape(Mega(features=8, max_length=8).init, jax.random.key(0), x)
