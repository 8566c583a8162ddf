"""LinOSS (Rusch & Rus 2024, arXiv:2410.03943).

    y'' = -A y + B u,   x = Re(C y) + D u,   output = GLU(GELU(x))

Forced oscillators, A >= 0 diagonal. With z = y' a step is (sec. 2.2)

    IM      z_t = z_{t-1} + dt (-A y_t     + B u_t),   y_t = y_{t-1} + dt z_t
    IMEX    z_t = z_{t-1} + dt (-A y_{t-1} + B u_t),   y_t = y_{t-1} + dt z_t

The implicit scheme dissipates, the other conserves a volume, and both are stable: IM
for all A, IMEX while dt^2 A < 4. A = relu(a) and dt = sigmoid(s) are learned. The gated
unit is that of the authors' block.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer

__all__ = ["LinOSS"]

SCHEMES = ("IM", "IMEX")


class LinOSS(Mixer):
  """Linear oscillators with many inputs and outputs.

  Attributes:
    state_size: Oscillators P.
    scheme: "IM", implicit, or "IMEX", implicit-explicit.
  """

  state_size: int = 64
  scheme: str = "IM"

  def __post_init__(self):
    super().__post_init__()
    if self.scheme not in SCHEMES:
      raise ValueError(f"LinOSS needs scheme in {SCHEMES}; got {self.scheme!r}")

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    x = ops.segments.clear_padding(x, segment_ids)
    y, state = self._system(x, state, segment_ids)
    glu = layers.GLU(self.features, self.dtype, self.param_dtype, name="glu")
    y = glu(nn.gelu(y.astype(self.dtype))).astype(x.dtype)
    return ops.segments.clear_padding(y, segment_ids), state

  def _system(self, x, state=None, segment_ids=None):
    """Re(C y) + D x, and the last (z, y)."""
    width, P = self.features, self.state_size
    uniform = lambda key, shape, dtype: jax.random.uniform(key, shape, dtype)
    within = lambda bound: lambda *args: bound * (2 * uniform(*args) - 1)
    of_B, of_C = within(width**-0.5), within(P**-0.5)
    A = nn.relu(self._param("A", uniform, (P,), ("heads",)))
    dt = nn.sigmoid(self._param("steps", uniform, (P,), ("heads",)))
    B = self._param("B", of_B, (P, width, 2), ("heads", "embed", None))
    C = self._param("C", of_C, (width, P, 2), ("embed", "heads", None))
    D = self._param("D", nn.initializers.normal(1.0), (width,), ("embed",))
    product = lambda spec, x, w: ops.product(spec, x, w, like=x.astype(self.dtype))
    driven = product("btd,pdc->btpc", x, B)
    driven = jax.lax.complex(driven[..., 0], driven[..., 1])
    transition, forcing = _step(self.scheme, A, dt)
    h, last = ops.block_recurrence(
      transition,
      forcing * driven[..., None],
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    y = product("btp,dp->btd", h[..., 1].real, C[..., 0])
    y -= product("btp,dp->btd", h[..., 1].imag, C[..., 1])
    return y + D * x.astype(jnp.float32), last

  @nn.nowrap
  def initial_state(self, batch_size: int) -> Complex[Array, "B P 2"]:
    return jnp.zeros((batch_size, self.state_size, 2), jnp.complex64)


def _step(scheme, A, dt):
  """What (z, y) is multiplied by [P, 2, 2], and what B u is [P, 2]."""
  one = jnp.ones_like(A)
  matrix = lambda a, b, c, d: jnp.stack(
    [jnp.stack([a, b], -1), jnp.stack([c, d], -1)], -2
  )
  if scheme == "IM":
    S = 1 / (1 + dt**2 * A)
    return matrix(S, -dt * A * S, dt * S, S), jnp.stack([dt * S, dt**2 * S], -1)
  transition = matrix(one, -dt * A, dt, 1 - dt**2 * A)
  return transition, jnp.stack([dt, dt**2], -1)
