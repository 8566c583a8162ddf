"""EcoFormer (Liu et al. 2022, arXiv:2209.09004), causal.

h_t = H(x_t W / |x_t W|)            b bits of -1 and 1; queries and keys are the same
o_t = sum_j (h_t^T h_j + b + 1) v_j / sum_j (h_t^T h_j + b + 1)
y_t = o_t W_o + c

No weight is less than 1. All products but those of H and of the projections are with
codes, so that they are sums and differences: see `operation_counts`. The paper mixes
the tokens of an image both ways; here j <= t, and b + 1 is one more feature, so that
the state has b + 1 rows. (The authors' code puts (b + 1) v_t for (b + 1) sum_j v_j.)
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.layers import kernelized_hash
from jaxseq.modules.linear.linear_transformer import LinearTransformer

__all__ = [
  "EcoFormer",
  "OperationCounts",
  "learn_hash",
  "operation_counts",
  "softmax_operation_counts",
]


class EcoFormer(LinearTransformer):
  """Linear attention on binary codes.

  Attributes:
    num_bits: Bits b of a code.
    num_anchors: Of the hash functions.
  """

  num_bits: int = 16
  num_anchors: int = 25

  use_bias = False  # Of the projections but the last.

  @property
  def num_features(self) -> int:
    return self.num_bits + 1

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    kind = x.dtype
    x = ops.segments.clear_padding(x, segment_ids)
    heads = lambda y: y.reshape(*x.shape[:2], self.num_heads, -1)
    directions = layers.l2_normalize(heads(self._project(x, self.features, "qk")))
    codes = kernelized_hash.KernelizedHash(
      self.num_bits, self.num_anchors, self.param_dtype, name="hash"
    )(directions)
    if not self.is_initializing():  # For `learn_hash`, and to look at.
      self.sow("hashed", "directions", directions)
      self.sow("hashed", "codes", codes)
    codes = codes.astype(self.dtype)
    one = jnp.ones_like(codes[..., :1])
    q = jnp.concatenate([codes, (self.num_bits + 1) * one], axis=-1)
    k = jnp.concatenate([codes, one], axis=-1)
    v = heads(self._project(x, self.features, "v"))
    o, state = self._attend(q, k, v, state, segment_ids)
    out = layers.projection(
      self.features,
      ("heads", "embed"),
      use_bias=True,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name="out",
    )
    y = out(o.reshape(x.shape)).astype(kind)
    return ops.segments.clear_padding(y, segment_ids), state


def learn_hash(
  mixer: EcoFormer, params, x: Float[Array, "B T D"], key: Array, num_pairs: int = 10
):
  """Makes the codes tell apart what attends to each other in x.

  No gradient trains them: the authors do this before training, and anew now and then.

  Args:
    mixer: The mixer.
    params: Its variables.
    x: Inputs, in full sequences.
    key: Of what is random.
    num_pairs: For each token, of those like it and of those unlike it.

  Returns:
    `params` with the hash functions learned.

  Raises:
    ValueError: If the sequences are too short.
  """
  _, sown = mixer.apply(params, x, mutable=["hashed"])
  learned = kernelized_hash.learn_hash(
    sown["hashed"]["directions"][0],
    key,
    num_bits=mixer.num_bits,
    num_anchors=mixer.num_anchors,
    num_pairs=num_pairs,
  )
  weights = dict(params["params"])
  weights["hash"] = nn.meta.replace_boxed(weights["hash"], learned)
  return {**params, "params": weights}


class OperationCounts(NamedTuple):
  """Operations in float32."""

  multiplications: int
  additions: int

  @property
  def energy_picojoules(self) -> float:
    """On a chip of 45 nm, with the numbers of the authors' code."""
    return 3.7 * self.multiplications + 0.9 * self.additions


def operation_counts(mixer: EcoFormer, num_tokens: int) -> OperationCounts:
  """Of the attention without its projections, counted as the authors do."""
  K, b, m = mixer.key_size, mixer.num_bits, mixer.num_anchors
  kernels = 2 * m, 2 * m * K  # A token and head.
  hashes = m * b, m * b
  products = 0, 2 * b * K + K  # Of keys and values, of queries with that, and the bias.
  denominator = b + 1 + K, 2 * b
  parts = zip(kernels, hashes, products, denominator)
  return OperationCounts(*(num_tokens * mixer.num_heads * sum(part) for part in parts))


def softmax_operation_counts(mixer: EcoFormer, num_tokens: int) -> OperationCounts:
  """Of softmax attention of the same shape, counted as the authors do."""
  pairs = num_tokens**2 * mixer.num_heads
  return OperationCounts(pairs * (2 * mixer.key_size + 1), pairs * 2 * mixer.key_size)
