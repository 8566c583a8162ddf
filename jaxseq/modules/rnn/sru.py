"""The simple recurrent unit (Lei et al. 2017, arXiv:1709.02755).

    f_t = sigmoid(x_t W_f + v_f * c_{t-1} + b_f)                            (eq. 1)
    c_t = f_t * c_{t-1} + (1 - f_t) * (x_t W)                               (eq. 2)
    r_t = sigmoid(x_t W_r + v_r * c_{t-1} + b_r)                            (eq. 3)
    h_t = r_t * c_t + alpha (1 - r_t) * x_t,   alpha = sqrt(1 + 2 exp(b_r)) (eq. 4)

b_r in alpha is its initial value. In the paper's first version v = 0, and the
recurrence is linear; here that is a mixer of its own, "v1" in the authors' code. The
layer that SRU++ puts in the place of the products with W is not part of this.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer

__all__ = ["SRU", "LinearSRU"]


class SRU(Mixer):
  """A pool under a gate that sees its own channel of the pool, beside a highway.

  Attributes:
    highway_bias: Initial b_r; a negative one lets more of the input pass.
  """

  highway_bias: float = 0.0

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    x = ops.segments.clear_padding(x, segment_ids)
    D = self.features
    u = layers.projection(
      3 * D,
      ("embed", "heads"),
      kernel_init=self._kernel_init,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name="input",
    )(x)
    u, forget, reset = jnp.split(u.astype(jnp.float32), 3, axis=-1)
    param = lambda name, init: self.param(
      name,
      nn.with_logical_partitioning(init, (None, "heads")),
      (2, D),
      self.param_dtype,
    )
    forget_bias, reset_bias = param("bias", self._bias_init)
    skip = (1 + 2 * math.exp(self.highway_bias)) ** 0.5 * x.astype(jnp.float32)
    h, state = self._recur(
      (u, forget + forget_bias, reset + reset_bias, skip), param, state, segment_ids
    )
    h = ops.segments.clear_padding(h, segment_ids)
    return h.astype(x.dtype), state

  def _recur(self, inputs, param, state, segment_ids):
    return ops.sru(
      *inputs,
      param("peepholes", _peephole_init),
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )

  @nn.nowrap
  def _kernel_init(self, key, shape, dtype):
    """Variance 1 / D, half of it for the gates."""
    uniform = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
    scales = jnp.array([1.0, 0.5**0.5, 0.5**0.5], dtype)
    return uniform(key, shape, dtype) * jnp.repeat(scales, shape[1] // 3)

  @nn.nowrap
  def _bias_init(self, key, shape, dtype):
    return jnp.zeros(shape, dtype).at[1].set(self.highway_bias)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> Float[Array, "B D"]:
    return jnp.zeros((batch_size, self.features))


class LinearSRU(SRU):
  """The unit of the paper's first version, whose gates see the input alone."""

  def _recur(self, inputs, param, state, segment_ids):
    u, forget, reset, skip = inputs
    self.show(log_decay=nn.log_sigmoid(forget))
    c, state = ops.diagonal_recurrence(
      nn.sigmoid(forget),
      nn.sigmoid(-forget) * u,
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    r = nn.sigmoid(reset)
    return r * c + (1 - r) * skip, state


def _peephole_init(key, shape, dtype):
  """Of mean 0 and variance 1/2."""
  return nn.initializers.uniform(6**0.5)(key, shape, dtype) - 1.5**0.5
