"""GSS (Mehta et al. 2022, arXiv:2206.13947).

    u = GELU(x W_u) [F],   v = GELU(x W_v) [H]
    y = K * norm(v) + D norm(v),   K_l = Re sum_n C_n (e^{lambda_n} - 1) / lambda_n
                                                      e^{lambda_n l}
    output = (u * y W_y) W_o + b                           (sec. 3, both listings)

The state space, a DSS_EXP with steps of one, lambda = -exp(a) + i exp(w) shared by its
channels and a random beginning, runs on H < D channels; the gate has F > D. Layer norm,
GELU and biases (of W_o alone) are those of the listings.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer
from jaxseq.ops.ssm import discretize

__all__ = ["GSS"]


class GSS(Mixer):
  """A gate beside a diagonal system on few channels.

  Attributes:
    expand: Width F of the gate, as a multiple of `features`.
    num_channels: Channels H of the state space. A quarter of `features` if None.
    state_size: States N of a channel, complex.
  """

  expand: int = 4
  num_channels: int | None = None
  state_size: int = 512

  @property
  def channels(self) -> int:
    return self.num_channels or max(1, self.features // 4)

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    u = ops.segments.clear_padding(x, segment_ids)
    width, H = self.expand * self.features, self.channels

    def project(x, width, name, axes, use_bias=False):
      return layers.projection(
        width,
        axes,
        use_bias=use_bias,
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        name=name,
      )(x)

    gate = nn.gelu(project(u, width, "gate", ("embed", "mlp")))
    v = nn.gelu(project(u, H, "value", ("embed", "heads")))
    ones, zeros = (
      nn.with_logical_partitioning(init, ("heads",))
      for init in (nn.initializers.ones, nn.initializers.zeros)
    )
    norm = nn.LayerNorm(
      scale_init=ones, bias_init=zeros, param_dtype=self.param_dtype, name="norm"
    )
    y, state = self._system(norm(v.astype(jnp.float32)), state, segment_ids)
    mixed = project(y.astype(self.dtype), width, "mixed", ("heads", "mlp"))
    y = project(gate * mixed, self.features, "out", ("mlp", "embed"), use_bias=True)
    return ops.segments.clear_padding(y.astype(x.dtype), segment_ids), state

  def _system(self, x, state, segment_ids):
    """Re(C h) + D x, and the last h."""
    H, N = self.channels, self.state_size
    normal = nn.initializers.normal(1.0)
    log_decay = self._param("log_decay", normal, (N,), (None,))
    log_frequency = self._param("log_frequency", normal, (N,), (None,))
    C = self._param("C", normal, (H, N, 2), ("heads", None, None))
    D = self._param("D", normal, (H,), ("heads",))
    eigenvalues = jax.lax.complex(-jnp.exp(log_decay), jnp.exp(log_frequency))
    a, b = discretize.zero_order_hold(eigenvalues, 1.0)
    y, last = ops.linear_system(
      x,
      jnp.broadcast_to(a, (H, N)),
      jnp.broadcast_to(b, (H, N)),
      jax.lax.complex(C[..., 0], C[..., 1])[:, None],
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    return y[..., 0] + D * x, last

  @nn.nowrap
  def initial_state(self, batch_size: int) -> Complex[Array, "B H N"]:
    return jnp.zeros((batch_size, self.channels, self.state_size), jnp.complex64)
