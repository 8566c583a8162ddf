"""The time mixing of RWKV-6, Finch (Peng et al. 2024, arXiv:2404.05892, sec. 4.2).

d_t = x_{t-1} - x_t
z_t = tanh((x_t + d_t * mu_x) A)                                 low rank
x^c_t = x_t + d_t * (mu_c + z^c_t B_c)                           c in w, k, v, r, g
g_t = -exp(w + tanh(x^w_t A_w) B_w)                              log decays by channel
o_t = (S_{t-1} + diag(u) k_t v_t^T)^T r_t,   S_t = diag(exp(g_t)) S_{t-1} + k_t v_t^T
y_t = (norm(o_t) * silu(x^g_t W_g)) W_o

Initial values are those of the authors' code for the first layer; there they change
with depth, which a mixer does not know.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer

__all__ = ["RWKV6", "RWKV6State"]

MIXES = "wkvrg"
# Exponent p of the initial mu = 1 - (channel / D)^p.
MIX_POWERS = dict(x=1.0, w=1.0, k=1.0, v=1.0, r=0.5, g=0.5)
NORM_EPSILON = 64e-5  # The authors' 1e-5, times 8^2 by which they divide heads of 64.


class RWKV6State(NamedTuple):
  """What the layer carries: the memory, and the last token for the token shift."""

  memory: Float[Array, "B H K K"]
  last: Float[Array, "B D"]


class RWKV6(Mixer):
  """Linear attention with data-dependent token shift, decays and a bonus.

  Attributes:
    num_heads: Heads H; the authors' have 64 channels each.
    mix_rank: Rank of the projections to each of the five token mixes.
    decay_rank: Rank of the projection to the decays.
  """

  num_heads: int = 4
  mix_rank: int = 32
  decay_rank: int = 64

  def __post_init__(self):
    super().__post_init__()
    if self.features % self.num_heads:
      raise ValueError(
        f"RWKV6 needs num_heads that divide features = {self.features}; "
        f"got {self.num_heads}"
      )

  @property
  def head_size(self) -> int:
    return self.features // self.num_heads

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    B, T, D = x.shape
    H, K = self.num_heads, self.head_size
    memory, last = (None, None) if state is None else state
    x = ops.segments.clear_padding(x, segment_ids)
    before, last = ops.token_shift(x, last, segment_ids)

    mixed = self._mix(x.astype(self.dtype), (before - x).astype(self.dtype))
    heads = lambda y: y.reshape(B, T, H, K)
    orthogonal = nn.initializers.orthogonal
    r = heads(self._project(mixed["r"], D, "r", orthogonal()))
    k = heads(self._project(mixed["k"], D, "k", orthogonal(0.1)))
    v = heads(self._project(mixed["v"], D, "v", orthogonal()))
    gate = nn.silu(self._project(mixed["g"], D, "gate", orthogonal(0.1)))
    log_decay = heads(self._log_decay(mixed["w"]))
    self.show(log_decay=log_decay)
    bonus = nn.with_logical_partitioning(_bonus_init, ("heads", None))
    o, memory = ops.time_mix(
      r,
      k,
      v,
      log_decay,
      self.param("bonus", bonus, (H, K), self.param_dtype),
      initial_state=memory,
      segment_ids=segment_ids,
      scale=1.0,
      implementation=self.implementation,
    )
    norm = layers.HeadNorm(
      NORM_EPSILON, use_bias=True, param_dtype=self.param_dtype, name="norm"
    )
    zeros = nn.initializers.zeros
    y = self._project(norm(o) * gate, D, "out", zeros, ("heads", "embed"))
    y = ops.segments.clear_padding(y.astype(x.dtype), segment_ids)
    return y, RWKV6State(memory, last)

  def _project(self, x, width, name, init, axes=("embed", "heads")):
    return layers.projection(
      width,
      axes,
      kernel_init=init,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name=name,
    )(x)

  def _mix(self, x, step):
    """Tokens on the way to their predecessors, as far as each use of them wants."""
    B, T, D = x.shape

    def mu(name):
      init = functools.partial(_mix_init, power=MIX_POWERS[name])
      init = nn.with_logical_partitioning(init, ("embed",))
      return self.param(f"mu_{name}", init, (D,), self.param_dtype).astype(self.dtype)

    count, zeros = len(MIXES), nn.initializers.zeros
    width = count * self.mix_rank
    low = self._project(x + step * mu("x"), width, "mix_down", zeros, ("embed", None))
    low = jnp.tanh(low).reshape(B, T, count, self.mix_rank)
    init = nn.with_logical_partitioning(_small_init, (None, None, "embed"))
    up = self.param("mix_up", init, (count, self.mix_rank, D), self.param_dtype)
    shares = jnp.einsum("btcr,crd->cbtd", low, up.astype(self.dtype))
    return {name: x + step * (mu(name) + m) for name, m in zip(MIXES, shares)}

  def _log_decay(self, x):
    """-exp(w + low rank), float32."""
    D = self.features
    zeros, axes = nn.initializers.zeros, (None, "heads")
    low = self._project(x, self.decay_rank, "decay_down", zeros, ("embed", None))
    w = self._project(jnp.tanh(low), D, "decay_up", _small_init, axes)
    init = nn.with_logical_partitioning(_decay_init, ("heads",))
    w = w.astype(jnp.float32) + self.param("decay", init, (D,), self.param_dtype)
    return -jnp.exp(w)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> RWKV6State:
    K = self.head_size
    memory = jnp.zeros((batch_size, self.num_heads, K, K))
    return RWKV6State(memory, jnp.zeros((batch_size, self.features)))


def _mix_init(key, shape, dtype, power):
  return (1 - (jnp.arange(shape[0]) / shape[0]) ** power).astype(dtype)


def _decay_init(key, shape, dtype):
  """From -6, slow, to -1, fast."""
  return (-6 + 5 * jnp.linspace(0, 1, shape[0]) ** 0.7).astype(dtype)


def _bonus_init(key, shape, dtype):
  """0.1 times 0, 1, -1, 0, ... over the channels of all heads."""
  n = jnp.arange(shape[0] * shape[1])
  return (0.1 * ((n + 1) % 3 - 1)).astype(dtype).reshape(shape)


def _small_init(key, shape, dtype):
  return nn.initializers.uniform(0.02)(key, shape, dtype) - 0.01
