"""Rodimus: tempered selection (He et al. 2024, arXiv:2410.06577, sec. 3).

x', z = x W_x, x W_z,   c_t = silu(conv(x'))                     width 2 D
g_t = softplus(c_t W_g + b_g),   tau_t = sigmoid(c_t W_tau + b_tau)      [K]
S_t = diag(exp(-g_t tau_t)) S_{t-1} + (g_t^tau_t * k_t) u_t^T
k_t = c_t W_k of length 1,   u_t = sigmoid(x'_t W_1 W_2 + b) * x'_t
y_t = norm((S_t^T q_t + w * c_t) * silu(z_t)) W_o,   q_t = c_t W_q

One head. A token that is written with weight g^tau makes the memory fade by exp(-g
tau): the temperature tau says how closely the two are tied. Rodimus+ adds sliding
windows of attention: in a stack, two names of its pattern.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.layers import linear_init
from jaxseq.modules.mixer import Mixer

__all__ = ["CONV_SIZE", "Rodimus", "RodimusState"]

CONV_SIZE = 4  # Taps W of the short convolution.

# Xavier uniform with a gain of 2^-2.5, from the authors' code.
INIT = nn.initializers.variance_scaling(2.0**-5, "fan_avg", "uniform")


class RodimusState(NamedTuple):
  """What the layer carries: the memory, and the last inputs of the convolution."""

  memory: Float[Array, "B 1 K V"]
  inputs: Float[Array, "B W-1 V"]


class Rodimus(Mixer):
  """A memory whose forgetting and writing are tied, more or less, by a temperature.

  Attributes:
    state_size: Rows K of the memory, which has 2 D columns.
    gate_rank: Rank of the gate of the values. max(D / 64, 16) if None.
    norm_epsilon: Of the norm over all outputs.
  """

  state_size: int = 64
  gate_rank: int | None = None
  norm_epsilon: float = 1e-5

  @property
  def inner_features(self) -> int:
    return 2 * self.features

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    x = ops.segments.clear_padding(x, segment_ids)
    width = self.inner_features
    before = RodimusState(None, None) if state is None else state
    up, z = self._project(x, width, "up"), self._project(x, width, "gate")
    c, inputs = self._convolve(up, before.inputs, segment_ids)
    q = self._project(c, self.state_size, "q", ("heads", None))
    k = layers.l2_normalize(self._project(c, self.state_size, "k", ("heads", None)))
    log_write, log_decay = self._selection(c)
    self.show(log_decay=log_decay[:, :, None])
    o, memory = ops.diagonal_decay(
      q[:, :, None],
      (jnp.exp(log_write) * k).astype(self.dtype)[:, :, None],
      (self._value_gate(up) * up)[:, :, None],
      log_decay[:, :, None],
      initial_state=before.memory,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    skip = self.param(
      "skip", _on_heads(nn.initializers.ones), (width,), self.param_dtype
    )
    o = o[:, :, 0].astype(jnp.float32) + c * skip
    norm = layers.RMSNorm(
      self.norm_epsilon, axes=("heads",), param_dtype=self.param_dtype, name="norm"
    )
    y = norm(o * nn.silu(z.astype(jnp.float32)))
    y = self._project(y, self.features, "out", ("heads", "embed")).astype(x.dtype)
    return y, RodimusState(memory, inputs)

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

  def _convolve(self, x, inputs, segment_ids):
    init = nn.with_logical_partitioning(linear_init.kernel_init, (None, "heads"))
    shape = (CONV_SIZE, self.inner_features)
    zeros = _on_heads(nn.initializers.zeros)
    return ops.short_conv(
      x,
      self.param("conv", init, shape, self.param_dtype),
      self.param("conv_bias", zeros, shape[1:], self.param_dtype),
      activation="silu",
      initial_state=inputs,
      segment_ids=segment_ids,
    )

  def _selection(self, c):
    """Logarithms of what is written, tau log g, and of what is kept, -g tau."""
    kinds = dict(use_bias=True, axes=("heads", None))
    g = self._project(c, self.state_size, "write", bias_init=_write_bias, **kinds)
    tau = self._project(c, self.state_size, "tau", bias_init=_tau_bias, **kinds)
    g, tau = g.astype(jnp.float32), nn.sigmoid(tau.astype(jnp.float32))
    # Far below zero softplus is exp, and its logarithm is what it was taken of.
    log_g = jnp.where(g < -15, g, jnp.log(nn.softplus(jnp.maximum(g, -15))))
    return tau * log_g, -nn.softplus(g) * tau

  def _value_gate(self, up):
    rank = self.gate_rank or max(self.features // 64, 16)
    low = self._project(up, rank, "value_gate_down", ("heads", None))
    width = self.inner_features
    gate = self._project(low, width, "value_gate_up", (None, "heads"), use_bias=True)
    return nn.sigmoid(gate)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> RodimusState:
    width = self.inner_features
    memory = jnp.zeros((batch_size, 1, self.state_size, width))
    return RodimusState(memory, jnp.zeros((batch_size, CONV_SIZE - 1, width)))


def _on_heads(init):
  return nn.with_logical_partitioning(init, ("heads",))


def _write_bias(key, shape, dtype):
  """The authors': decays begin between 0.9 and 0.999 if tau is one."""
  low, high = math.log(0.001), math.log(0.1)
  g = jnp.exp(jax.random.uniform(key, shape, dtype, low, high))
  return g + jnp.log(-jnp.expm1(-g))  # The inverse of softplus.


def _tau_bias(key, shape, dtype):
  """tau begins uniform in [1/16, 0.9]."""
  tau = jax.random.uniform(key, shape, dtype, 1 / 16, 0.9)
  return jnp.log(tau) - jnp.log1p(-tau)
