"""Gated DeltaNet (Yang et al. 2024, arXiv:2412.06464, sec. 3.4).

q, k, v = silu(conv(x W)),  q and k of length 1 in each head
g_t = -exp(A_log) softplus(x_t W_a + dt_bias),   beta_t = sigmoid(x_t W_b)
S_t = exp(g_t) (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T,   o_t = S_t^T q_t
y_t = (norm(o_t) * silu(x_t W_g)) W_o

With `negative_eigenvalues` beta is twice that, in (0, 2), and I - beta k k^T may
reflect (Grazzi et al. 2024, arXiv:2411.12537): such layers learn parity.
"""

from fractions import Fraction
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.layers import linear_init, time_scales
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
    negative_eigenvalues: Whether beta ranges over (0, 2) instead of (0, 1).
    norm_epsilon: Of the norm over each head's outputs.
  """

  num_heads: int = 4
  num_value_heads: int | None = None
  head_dim: int | None = None
  expand_v: float = 2.0
  negative_eigenvalues: bool = False
  norm_epsilon: float = 1e-5

  keys: ClassVar[Fraction] = Fraction(3, 4)  # Width of all keys, as a share of D.

  def __post_init__(self):
    super().__post_init__()
    name = type(self).__name__
    if self.head_dim is None and (self.features * self.keys) % self.num_heads:
      raise ValueError(
        f"{name} needs num_heads that divide {self.keys} features = "
        f"{float(self.features * self.keys):g}, or head_dim; got {self.num_heads}"
      )
    if self.value_heads % self.num_heads:
      raise ValueError(
        f"{name} needs num_value_heads in multiples of num_heads = "
        f"{self.num_heads}; got {self.num_value_heads}"
      )

  @property
  def value_heads(self) -> int:
    return self.num_value_heads or self.num_heads

  @property
  def key_size(self) -> int:
    return self.head_dim or int(self.features * self.keys) // self.num_heads

  @property
  def value_size(self) -> int:
    return round(self.key_size * self.expand_v)

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    B, T, _ = x.shape
    x = ops.segments.clear_padding(x, segment_ids)
    H, K, V = self.value_heads, self.key_size, self.value_size
    before = GatedDeltaNetState(None, None, None, None) if state is None else state

    def mixed(name, count, size, inputs):
      """Projected, mixed with the tokens just before, by heads."""
      init = nn.with_logical_partitioning(linear_init.kernel_init, (None, "heads"))
      shape = (CONV_SIZE, count * size)
      y, after = ops.short_conv(
        self._project(x, count * size, name),
        self.param(f"{name}_conv", init, shape, self.param_dtype),
        activation="silu",
        initial_state=inputs,
        segment_ids=segment_ids,
      )
      return y.reshape(B, T, count, size), after

    q, q_after = mixed("q", self.num_heads, K, before.q)
    k, k_after = mixed("k", self.num_steps * self.num_heads, K, before.k)
    v, v_after = mixed("v", self.num_steps * H, V, before.v)
    q, k = self._directions(q, k)
    q, k = (jnp.repeat(y, H // self.num_heads, axis=2) for y in (q, k))
    gates = self._gates(x)
    o, memory = self._recur(x, q, k, v, *gates, before.memory, segment_ids)
    norm = layers.RMSNorm(
      self.norm_epsilon, axes=(None,), param_dtype=self.param_dtype, name="norm"
    )
    o = norm(o).reshape(B, T, H * V) * self._output_gate(x)
    y = self._project(o, self.features, "out", ("heads", "embed")).astype(x.dtype)
    return y, GatedDeltaNetState(memory, q_after, k_after, v_after)

  # The layers that derive from this one differ in some of the parts below.

  @property
  def num_steps(self) -> int:
    """Steps of the delta rule that a token makes; its keys and values are as many."""
    return 1

  def _project(self, x, width, name, axes=("embed", "heads"), **options):
    return layers.projection(
      width,
      axes,
      kernel_init=INIT,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name=name,
      **options,
    )(x)

  def _directions(self, q, k):
    """Queries and keys of length 1."""
    return tuple(layers.l2_normalize(y).astype(self.dtype) for y in (q, k))

  def _gates(self, x):
    """Log decay, and beta: float32, one a head. The decay is as in Mamba-2."""
    H = self.value_heads
    dt = self._project(x, H, "dt").astype(jnp.float32)
    log_decay = -self._rates() * nn.softplus(dt + self._steps(H))
    self.show(log_decay=log_decay)
    return log_decay, self._beta(x)

  def _beta(self, x):
    """How much of the old value each head replaces, in each step."""
    width = self.num_steps * self.value_heads
    beta = nn.sigmoid(self._project(x, width, "beta").astype(jnp.float32))
    return 2 * beta if self.negative_eigenvalues else beta

  def _rates(self):
    """exp(A_log), with Mamba-2's initial values; the paper gives none."""
    init = nn.with_logical_partitioning(time_scales.rate_init, ("heads",))
    return jnp.exp(self.param("A_log", init, (self.value_heads,), self.param_dtype))

  def _steps(self, width):
    """dt_bias, likewise."""
    init = nn.with_logical_partitioning(time_scales.step_init, ("heads",))
    return self.param("dt_bias", init, (width,), self.param_dtype)

  def _recur(self, x, q, k, v, log_decay, beta, memory, segment_ids):
    """Outputs and the memory after them."""
    del x  # Further gates of the layers that derive from this one depend on it.
    return ops.gated_delta_rule(
      q,
      k,
      v,
      log_decay,
      beta,
      initial_state=memory,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )

  def _output_gate(self, x):
    return nn.silu(self._project(x, self.value_heads * self.value_size, "gate"))

  @nn.nowrap
  def initial_state(self, batch_size: int) -> GatedDeltaNetState:
    H, K, V = self.value_heads, self.key_size, self.value_size
    inputs = lambda width: jnp.zeros((batch_size, CONV_SIZE - 1, width))
    keys, n = self.num_heads * K, self.num_steps
    memory = jnp.zeros((batch_size, H, K, V))
    return GatedDeltaNetState(memory, inputs(keys), inputs(n * keys), inputs(n * H * V))
