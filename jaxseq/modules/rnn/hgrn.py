"""HGRN (Qin et al. 2023, arXiv:2311.04823, sec. 3).

    c_t = silu(x_t W_cr + b_cr) + i silu(x_t W_ci + b_ci)
    l_t = gamma + (1 - gamma) sigmoid(x_t W_l + b_l)       forget gates, from below
    h_t = l_t exp(i theta) h_{t-1} + (1 - l_t) c_t
    y_t = norm(silu(x_t W_g + b_g) * [Re h_t, Im h_t]) W_o + b_o

The angles theta are learned, and begin as those of rotary positions: D of them, from 1
down to 10000^-2 (those of the authors' code). In the paper gamma rises from layer to
layer, from 0 in the first; a mixer does not know its layer. The authors' code has the
norm before the gate.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer

__all__ = ["HGRN"]


class HGRN(Mixer):
  """A diagonal recurrence that turns by learned angles and forgets by gates.

  Attributes:
    lower_bound: gamma in [0, 1), the least share of the state kept at each token.
    complex_states: Whether states are complex, or real and do not turn: the authors'
      ablation, and their choice in HGRN2.
    norm_epsilon: Of the layer norm.
  """

  lower_bound: float = 0.0
  complex_states: bool = True
  norm_epsilon: float = 1e-5

  def __post_init__(self):
    super().__post_init__()
    if not 0 <= self.lower_bound < 1:
      raise ValueError(f"HGRN needs lower_bound in [0, 1); got {self.lower_bound}")

  @property
  def width(self) -> int:
    """Real numbers in the state."""
    return self.features * (2 if self.complex_states else 1)

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    u = ops.segments.clear_padding(x, segment_ids)

    def project(x, width, name, axes=("embed", "heads")):
      types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
      return layers.projection(width, axes, use_bias=True, name=name, **types)(x)

    wide = lambda y: y.astype(jnp.float32)
    c = nn.silu(wide(project(u, self.width, "input")))
    forget = wide(project(u, self.features, "forget"))
    kept = self.lower_bound + (1 - self.lower_bound) * nn.sigmoid(forget)
    self.show(log_decay=jnp.log(kept))
    factor = kept
    if self.complex_states:
      theta = self.param(
        "theta",
        nn.with_logical_partitioning(_angle_init, ("heads",)),
        (self.features,),
        self.param_dtype,
      )
      factor = jax.lax.complex(kept * jnp.cos(theta), kept * jnp.sin(theta))
      c = jax.lax.complex(*jnp.split(c, 2, axis=-1))
    h, state = ops.diagonal_recurrence(
      factor,
      (1 - self.lower_bound) * nn.sigmoid(-forget) * c,
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    if self.complex_states:
      h = jnp.concatenate([h.real, h.imag], axis=-1)
    gate = nn.silu(wide(project(u, self.width, "gate")))
    norm = layers.HeadNorm(
      self.norm_epsilon, use_bias=True, param_dtype=self.param_dtype, name="norm"
    )
    y = norm((gate * h)[..., None, :]).astype(self.dtype)
    y = project(y, self.features, "out", ("heads", "embed")).astype(x.dtype)
    return ops.segments.clear_padding(y, segment_ids), state

  @nn.nowrap
  def initial_state(self, batch_size: int):
    kind = jnp.complex64 if self.complex_states else jnp.float32
    return jnp.zeros((batch_size, self.features), kind)


def _angle_init(key, shape, dtype):
  return (10_000.0 ** (-2 / shape[0] * jnp.arange(shape[0]))).astype(dtype)
