"""Multi-scale retention (RetNet, Sun et al. 2023, arXiv:2307.08621, eq. 5 to 8).

    S_t = gamma_h S_{t-1} + k_t v_t^T,   o_t = S_t^T q_t,   gamma_h = 1 - 2^(-5-h)
    y_t = (norm(o_t) * swish(x_t W_g)) W_o

Queries and keys are turned by their positions (rotary), values are twice as wide. The
group norm of a head is an RMS norm, as in the authors' code; with a learned scale.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq import layers, ops, positions
from jaxseq.modules.mixer import Mixer

__all__ = ["Retention", "RetentionState"]

# Xavier uniform with gains of 2^-2.5 and 2^-1, from the authors' code.
INIT = nn.initializers.variance_scaling(2.0**-5, "fan_avg", "uniform")
OUT_INIT = nn.initializers.variance_scaling(2.0**-2, "fan_avg", "uniform")


class RetentionState(NamedTuple):
  """What retention carries: the memory, and how many tokens it has seen."""

  memory: Float[Array, "B H K V"]
  length: Int[Array, "B"]


class Retention(Mixer):
  """Linear attention with a fixed decay for each head.

  Attributes:
    num_heads: Heads H.
    expand_v: Width of all values, as a multiple of `features`.
    norm_epsilon: Of the norm over each head's outputs.
  """

  num_heads: int = 4
  expand_v: int = 2
  norm_epsilon: float = 1e-5

  def __post_init__(self):
    super().__post_init__()
    if self.features % (2 * self.num_heads):
      raise ValueError(
        f"{type(self).__name__} needs num_heads that divide features into even parts; "
        f"got {self.num_heads} for {self.features}"
      )

  @property
  def key_size(self) -> int:
    return self.features // self.num_heads

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    B, T, _ = x.shape
    x = ops.segments.clear_padding(x, segment_ids)
    H, K, V = self.num_heads, self.key_size, self.key_size * self.expand_v

    def project(x, width, name, axes=("embed", "heads"), init=INIT):
      return layers.projection(
        width,
        axes,
        kernel_init=init,
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        name=name,
      )(x)

    state = self.initial_state(B) if state is None else state
    q, k = (project(x, H * K, name).reshape(B, T, H, K) for name in "qk")
    v = project(x, H * V, "v").reshape(B, T, H, V)
    place = ops.segments.positions(segment_ids, state.length, (B, T))
    o, memory = self._retain(q, k, v, place, state.memory, segment_ids)
    norm = layers.RMSNorm(
      self.norm_epsilon, axes=(None,), param_dtype=self.param_dtype, name="norm"
    )
    o = norm(o).reshape(B, T, H * V) * nn.swish(project(x, H * V, "gate"))
    y = project(o, self.features, "out", ("heads", "embed"), OUT_INIT).astype(x.dtype)
    length = ops.segments.length_after(segment_ids, state.length, T)
    return y, RetentionState(memory, length)

  def _retain(self, q, k, v, place, memory, segment_ids):
    """Outputs, and the memory after them."""
    q, k = (positions.rotary(y, place) for y in (q, k))
    log_decay = jnp.broadcast_to(self._log_decay(), q.shape[:3])
    self.show(log_decay=log_decay)
    return ops.scalar_decay(
      q,
      k,
      v,
      log_decay,
      initial_state=memory,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )

  def _log_decay(self):
    return jnp.log1p(-jnp.exp2(-5.0 - jnp.arange(self.num_heads)))

  @nn.nowrap
  def initial_state(self, batch_size: int) -> RetentionState:
    K, V = self.key_size, self.key_size * self.expand_v
    memory = jnp.zeros((batch_size, self.num_heads, K, V))
    return RetentionState(memory, jnp.zeros(batch_size, jnp.int32))
