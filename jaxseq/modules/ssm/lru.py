"""The LRU (Orvieto et al. 2023, arXiv:2303.06349).

    h_t = lambda h_{t-1} + gamma (B x_t),   y_t = Re(C h_t) + D x_t
    lambda = exp(-exp(nu) + i exp(theta)),  gamma begins as (1 - |lambda|^2)^1/2
    output = GLU(GELU(y))

One diagonal complex recurrence with many inputs and outputs, in discrete time from the
start; lambda begins uniform on a ring of the unit disk (lemma 3.2, eq. 6 and 7). The
gated unit is that of the block of sec. 2.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer

__all__ = ["LRU"]


class LRU(Mixer):
  """The linear recurrent unit.

  Attributes:
    state_size: States N, complex.
    r_min: Least initial modulus of lambda.
    r_max: Largest initial modulus of lambda.
    max_phase: Largest initial phase of lambda.
  """

  state_size: int = 64
  r_min: float = 0.0
  r_max: float = 1.0
  max_phase: float = 2 * math.pi

  def __post_init__(self):
    super().__post_init__()
    if not 0 <= self.r_min < self.r_max <= 1:
      raise ValueError(
        f"LRU needs 0 <= r_min < r_max <= 1; got {self.r_min} and {self.r_max}"
      )

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    x = ops.segments.clear_padding(x, segment_ids)
    y, state = self._system(x, state, segment_ids)
    glu = layers.GLU(self.features, self.dtype, self.param_dtype, name="glu")
    y = glu(nn.gelu(y.astype(self.dtype))).astype(x.dtype)
    return ops.segments.clear_padding(y, segment_ids), state

  def _system(self, x, state=None, segment_ids=None):
    """Re(C h) + D x, and the last h."""
    width, N = self.features, self.state_size
    normal = nn.initializers.normal
    nu = self._param("nu", self._nu_init, (N,), ("heads",))
    theta = self._param("theta", self._theta_init, (N,), ("heads",))
    balance = lambda *_: 0.5 * jnp.log(-jnp.expm1(-2 * jnp.exp(nu)))
    gamma = self._param("log_gamma", balance, (N,), ("heads",))
    of_B, of_C = normal((2 * width) ** -0.5), normal(N**-0.5)
    B = self._param("B", of_B, (N, width, 2), ("heads", "embed", None))
    C = self._param("C", of_C, (width, N, 2), ("embed", "heads", None))
    D = self._param("D", normal(1.0), (width,), ("embed",))
    product = lambda spec, x, w: ops.product(spec, x, w, like=x.astype(self.dtype))
    driven = product("btd,ndc->btnc", x, B) * jnp.exp(gamma)[:, None]
    h, last = ops.diagonal_recurrence(
      jnp.exp(jax.lax.complex(-jnp.exp(nu), jnp.exp(theta))),
      jax.lax.complex(driven[..., 0], driven[..., 1]),
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    y = product("btn,dn->btd", h.real, C[..., 0])
    y -= product("btn,dn->btd", h.imag, C[..., 1])
    return y + D * x.astype(jnp.float32), last

  def _nu_init(self, key, shape, dtype):
    """|lambda|^2 uniform, so that lambda is uniform by area."""
    low, high = self.r_min**2, self.r_max**2
    square = jax.random.uniform(key, shape, dtype, low, high)
    return jnp.log(-0.5 * jnp.log(jnp.maximum(square, jnp.finfo(dtype).tiny)))

  def _theta_init(self, key, shape, dtype):
    phase = self.max_phase * jax.random.uniform(key, shape, dtype)
    return jnp.log(jnp.maximum(phase, jnp.finfo(dtype).tiny))

  @nn.nowrap
  def initial_state(self, batch_size: int) -> Complex[Array, "B N"]:
    return jnp.zeros((batch_size, self.state_size), jnp.complex64)
