"""Gated DeltaNet (Yang et al. 2024, arXiv:2412.06464, sec. 3.4).

q, k, v = silu(conv(x W)),  q and k of length 1 in each head
g_t = -exp(A_log) softplus(x_t W_a + dt_bias),   beta_t = sigmoid(x_t W_b)
S_t = exp(g_t) (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T,   o_t = S_t^T q_t
y_t = (norm(o_t) * silu(x_t W_g)) W_o
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer

__all__ = ["GatedDeltaNet", "GatedDeltaNetState"]

CONV_SIZE = 4  # Taps W of the short convolutions.

# Xavier uniform with a gain of 2^-2.5, from the authors' code.
INIT = nn.initializers.variance_scaling(2.0**-5, "fan_avg", "uniform")


class GatedDeltaNetState(NamedTuple):
  """What the layer carries: the memory, and the last inputs of the convolutions."""

  memory: Float[Array, "B H K V"]
  q: Float[Array, "B W-1 HK"]
  k: Float[Array, "B W-1 HK"]
  v: Float[Array, "B W-1 HV"]


class GatedDeltaNet(Mixer):
  """A fading memory that replaces what is stored under a key.

  Attributes:
    num_heads: Heads H of queries and keys.
    num_value_heads: Heads of values, gates and memories, a multiple of H; queries and
      keys are shared among them (Qwen3-Next). H if None.
    head_dim: K of a head. 3/4 D / H if None, as in the paper's 1.3B model.
    expand_v: V / K.
    norm_epsilon: Of the norm over each head's outputs.
  """

  num_heads: int = 4
  num_value_heads: int | None = None
  head_dim: int | None = None
  expand_v: float = 2.0
  norm_epsilon: float = 1e-5

  def __post_init__(self):
    super().__post_init__()
    if self.head_dim is None and self.features * 3 % (4 * self.num_heads):
      raise ValueError(
        "GatedDeltaNet needs num_heads that divide 3/4 features = "
        f"{self.features * 0.75:g}, or head_dim; got {self.num_heads}"
      )
    if self.value_heads % self.num_heads:
      raise ValueError(
        f"GatedDeltaNet needs num_value_heads in multiples of num_heads = "
        f"{self.num_heads}; got {self.num_value_heads}"
      )

  @property
  def value_heads(self) -> int:
    return self.num_value_heads or self.num_heads

  @property
  def key_size(self) -> int:
    return self.head_dim or self.features * 3 // (4 * self.num_heads)

  @property
  def value_size(self) -> int:
    return round(self.key_size * self.expand_v)

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    B, T, _ = x.shape
    x = ops.segments.clear_padding(x, segment_ids)
    H, K, V = self.value_heads, self.key_size, self.value_size
    before = GatedDeltaNetState(None, None, None, None) if state is None else state

    def project(x, width, name, axes=("embed", "heads")):
      return layers.projection(
        width,
        axes,
        kernel_init=INIT,
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        name=name,
      )(x)

    def mixed(name, count, size, inputs):
      """Projected, mixed with the tokens just before, by heads."""
      uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
      init = nn.with_logical_partitioning(uniform, (None, "heads"))
      shape = (CONV_SIZE, count * size)
      y, after = ops.short_conv(
        project(x, count * size, name),
        self.param(f"{name}_conv", init, shape, self.param_dtype),
        activation="silu",
        initial_state=inputs,
        segment_ids=segment_ids,
      )
      return y.reshape(B, T, count, size), after

    q, q_after = mixed("q", self.num_heads, K, before.q)
    k, k_after = mixed("k", self.num_heads, K, before.k)
    v, v_after = mixed("v", H, V, before.v)
    q, k = (layers.l2_normalize(y).astype(self.dtype) for y in (q, k))
    q, k = (jnp.repeat(y, H // self.num_heads, axis=2) for y in (q, k))
    beta = nn.sigmoid(project(x, H, "beta").astype(jnp.float32))
    o, memory = ops.gated_delta_rule(
      q,
      k,
      v,
      self._log_decay(project(x, H, "dt")),
      beta,
      initial_state=before.memory,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    norm = layers.RMSNorm(
      self.norm_epsilon, axes=(None,), param_dtype=self.param_dtype, name="norm"
    )
    o = norm(o).reshape(B, T, H * V) * nn.silu(project(x, H * V, "gate"))
    y = project(o, self.features, "out", ("heads", "embed")).astype(x.dtype)
    return y, GatedDeltaNetState(memory, q_after, k_after, v_after)

  def _log_decay(self, dt):
    """As in Mamba-2, with its initial rates and step sizes."""
    rates = nn.with_logical_partitioning(_rate_init, ("heads",))
    steps = nn.with_logical_partitioning(_step_init, ("heads",))
    A_log = self.param("A_log", rates, dt.shape[-1:], self.param_dtype)
    dt_bias = self.param("dt_bias", steps, dt.shape[-1:], self.param_dtype)
    return -jnp.exp(A_log) * nn.softplus(dt.astype(jnp.float32) + dt_bias)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> GatedDeltaNetState:
    H, K, V = self.value_heads, self.key_size, self.value_size
    inputs = lambda width: jnp.zeros((batch_size, CONV_SIZE - 1, width))
    keys = self.num_heads * K
    memory = jnp.zeros((batch_size, H, K, V))
    return GatedDeltaNetState(memory, inputs(keys), inputs(keys), inputs(H * V))


def _rate_init(key, shape, dtype):
  """log A, A uniform in [1, 16] (Mamba-2's; the paper gives none)."""
  return jnp.log(jax.random.uniform(key, shape, dtype, 1.0, 16.0))


def _step_init(key, shape, dtype):
  """The inverse of softplus at step sizes log-uniform in [0.001, 0.1]."""
  low, high = math.log(0.001), math.log(0.1)
  dt = jnp.exp(jax.random.uniform(key, shape, dtype, low, high))
  return dt + jnp.log(-jnp.expm1(-dt))
