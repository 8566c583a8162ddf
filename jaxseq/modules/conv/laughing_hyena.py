"""Hyena and MultiHyena with a state of fixed size (Massaroli et al. 2023, 2310.18780).

    h_0 = skip,   h_l = Re sum_n R_n lambda_n^{l-1},   lambda = exp(-exp(a) + i theta)

The layers of `hyena.py` and `multi_hyena.py` whose filters are sums of a few modes, not
implicit (sec. 3): a token costs the same however many came before. Their parameters are
made from trained ones by `convert.laughing_hyena`; how they begin otherwise is ours.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxseq import ops
from jaxseq.modules.conv.hyena import CONV_SIZE, Hyena, HyenaState
from jaxseq.modules.conv.multi_hyena import MultiHyena, MultiHyenaState

__all__ = ["LaughingHyena", "LaughingMultiHyena"]


class LaughingHyena(Hyena):
  """Hyena whose filters are sums of modes.

  Attributes:
    num_modes: Modes M of each filter, complex numbers of its state.
    max_length: Not used, nor is what makes implicit filters.
  """

  num_modes: int = 8

  def _convolution(self, segment_ids):
    width = (self.order - 1) * self.features
    modes = _modes(self, width)
    return lambda z, state, channels: ops.modal_conv(
      z,
      *(array[channels] for array in modes),
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )

  @nn.nowrap
  def initial_state(self, batch_size: int) -> HyenaState:
    N, D = self.order, self.features
    short = jnp.zeros((batch_size, CONV_SIZE - 1, (N + 1) * D))
    long = jnp.zeros((batch_size, D, self.num_modes), jnp.complex64)
    return HyenaState(short, (long,) * (N - 1))


class LaughingMultiHyena(MultiHyena):
  """MultiHyena whose filters are sums of modes.

  Attributes:
    num_modes: Modes M of each filter; the state of a head of K channels is M K^2
      complex numbers.
    max_length: Not used, nor is what makes implicit filters.
  """

  num_modes: int = 8

  def _mix(self, q, k, v, state, segment_ids):
    B, T, H, K = q.shape
    z = (k[..., :, None] * v[..., None, :]).reshape(B, T, H * K * K)
    z, state = ops.modal_conv(
      z,
      *(jnp.repeat(array, K * K, axis=0) for array in _modes(self, H)),
      initial_state=state,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    return jnp.einsum("bthk,bthkv->bthv", q, z.reshape(B, T, H, K, K)), state

  @nn.nowrap
  def initial_state(self, batch_size: int) -> MultiHyenaState:
    short = jnp.zeros((batch_size, CONV_SIZE - 1, 3 * self.features))
    shape = (batch_size, self.features * self.head_size, self.num_modes)
    return MultiHyenaState(short, jnp.zeros(shape, jnp.complex64))


def _modes(mixer, num_filters):
  """Log poles and residues [num_filters, M], and skips."""
  M = mixer.num_modes

  def param(name, init, *shape):
    axes = ("heads", *[None] * len(shape))
    return mixer._param(name, init, (num_filters, *shape), axes)

  log_rate = param("log_rate", _log_rate_init, M)
  angle = param("angle", _angle_init, M)
  residues = param("residues", nn.initializers.normal(M**-0.5), M, 2)
  log_poles = jax.lax.complex(-jnp.exp(log_rate), angle)
  skip = param("skip", nn.initializers.normal(1.0))
  return log_poles, jax.lax.complex(residues[..., 0], residues[..., 1]), skip


def _log_rate_init(key, shape, dtype):
  """Memories of 10 to 1,000 tokens."""
  return jax.random.uniform(key, shape, dtype, np.log(0.001), np.log(0.1))


def _angle_init(key, shape, dtype):
  return jax.random.uniform(key, shape, dtype, 0, np.pi)
