"""H3 (Fu et al. 2022, arXiv:2212.14052, sec. 3).

    q, k, v = x W + b
    k'_t = sum_l c_l k_{t-l} + d k_t,   l = 0 .. N-1                   the shift SSM
    o_t = (SSM(k'_t v_t^T))^T q_t,      y = o W_o + b_o
    SSM: ds/dt = A s + z,  y = 2 Re(C s) + D z            N / 2 complex states an entry

The shift SSM, whose B is e_1, remembers the last N keys: it is a filter of N taps. The
diagonal one is S4D-Lin (Gu et al. 2022, arXiv:2206.11893): A begins as -1/2 + i pi n,
by the bilinear rule with a step that is learned, and B = 1. It has one filter for all
entries of a head's outer products.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from jaxseq import layers, ops
from jaxseq.layers import linear_init, time_scales
from jaxseq.modules.mixer import Mixer
from jaxseq.ops.ssm import discretize

__all__ = ["H3", "H3State"]


class H3State(NamedTuple):
  """What the layer carries: the last keys, and the states of the diagonal SSM."""

  shift: Float[Array, "B N-1 D"]
  diagonal: Complex[Array, "B DK N/2"]


class H3(Mixer):
  """Two state spaces with a product of projections before and after the second.

  Attributes:
    state_size: N.
    head_size: Channels K of a head. 1 in the paper's smaller models, 8 in the larger.
    dt_min: Least initial step size of the diagonal SSM.
    dt_max: Largest initial step size.
  """

  state_size: int = 64
  head_size: int = 1
  dt_min: float = 0.001
  dt_max: float = 0.1

  def __post_init__(self):
    super().__post_init__()
    if self.features % self.head_size or self.state_size % 2:
      raise ValueError(
        f"H3 needs head_size that divides features = {self.features} and an even "
        f"state_size; got {self.head_size} and {self.state_size}"
      )

  @property
  def num_heads(self) -> int:
    return self.features // self.head_size

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    B, T, D = x.shape
    H, K = self.num_heads, self.head_size
    before = H3State(None, None) if state is None else state
    u = ops.segments.clear_padding(x, segment_ids)
    q, k, v = (self._project(u, name, ("embed", "heads")) for name in "qkv")
    k, shift = ops.fft_conv(
      k,
      self._param("shift", linear_init.kernel_init, (self.state_size, D), axis=1),
      self._param("shift_skip", nn.initializers.normal(1.0), (D,)),
      initial_state=before.shift,
      segment_ids=segment_ids,
    )
    q, k, v = (z.reshape(B, T, H, K) for z in (q, k, v))
    z, diagonal = ops.modal_conv(
      (k[..., :, None] * v[..., None, :]).reshape(B, T, D * K),
      *(jnp.repeat(array, K * K, axis=0) for array in self._modes()),
      initial_state=before.diagonal,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    o = jnp.einsum("bthk,bthkv->bthv", q, z.reshape(B, T, H, K, K))
    y = self._project(o.reshape(B, T, D), "out", ("heads", "embed")).astype(x.dtype)
    return ops.segments.clear_padding(y, segment_ids), H3State(shift, diagonal)

  def _modes(self):
    """Log poles and residues [H, N / 2] of the diagonal SSM, and its first taps [H]."""
    H, M = self.num_heads, self.state_size // 2
    half = lambda key, shape, dtype: jnp.full(shape, np.log(0.5), dtype)
    lin = lambda key, shape, dtype: jnp.broadcast_to(
      np.pi * jnp.arange(M, dtype=dtype), shape
    )
    step = time_scales.log_step_init(self.dt_min, self.dt_max)
    A = -jnp.exp(self._param("log_rate", half, (H, M)))
    A = jax.lax.complex(A, self._param("frequency", lin, (H, M)))
    a, b = discretize.bilinear(A, jnp.exp(self._param("log_dt", step, (H,)))[:, None])
    C = self._param("C", nn.initializers.normal(0.5**0.5), (H, M, 2))
    read = 2 * jax.lax.complex(C[..., 0], C[..., 1]) * b
    skip = self._param("skip", nn.initializers.normal(1.0), (H,))
    return jnp.log(a), read * a, skip + jnp.sum(read.real, axis=1)

  def _project(self, x, name, axes):
    return layers.projection(
      self.features,
      axes,
      use_bias=True,
      kernel_init=linear_init.kernel_init,
      bias_init=linear_init.bias_init(self.features),
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name=name,
    )(x)

  def _param(self, name, init, shape, axis=0):
    axes = tuple("heads" if i == axis else None for i in range(len(shape)))
    init = nn.with_logical_partitioning(init, axes)
    return self.param(name, init, shape, self.param_dtype)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> H3State:
    D, N = self.features, self.state_size
    diagonal = (batch_size, D * self.head_size, N // 2)
    return H3State(
      jnp.zeros((batch_size, N - 1, D)), jnp.zeros(diagonal, jnp.complex64)
    )
