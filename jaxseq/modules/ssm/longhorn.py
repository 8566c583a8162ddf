"""Longhorn (Liu et al. 2024, arXiv:2407.14207, sec. 3).

x, z = u W;   x = silu(conv(x) + b)
beta_t = sigmoid(x_t W_1 W_2 + beta_bias),   k_t, q_t = x_t W_k, x_t W_q
delta_t = beta_t / (1 + beta_t |k_t|^2)
h_t = (1 - delta_t k_t^2) h_{t-1} + delta_t k_t x_t,   o_t = q_t h_t + D x_t
y_t = (o_t * silu(z_t)) W_o

A channel's state is the answer to a regression that goes on at each token:

h_t = argmin_h |h - h_{t-1}|^2 + beta_t (k_t h - x_t)^2

whose solution is a step delta_t of the delta rule; its transition 1 - delta_t k k^T is
then replaced by the diagonal (sec. 3.2). Nothing else forgets: there is no A. The layer
around it is Mamba's.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from jaxseq import ops
from jaxseq.layers import linear_init
from jaxseq.modules.mixer import Mixer
from jaxseq.modules.ssm import mamba_init
from jaxseq.modules.ssm.mamba import SelectiveSSM, SelectiveState, gated, ssm_options

__all__ = ["Longhorn"]

# All steps begin at sigmoid(0), from the authors' code.
START = dataclasses.replace(
  mamba_init.MAMBA["default"], dt=linear_init.kernel_init, dt_bias=nn.initializers.zeros
)


class LonghornSSM(SelectiveSSM):
  """That of Mamba, with steps of a regression instead of decays."""

  def _scan(self, x, dt, B, C, memory, segment_ids):
    beta, k, q = nn.sigmoid(dt), B.astype(jnp.float32), C
    beta = beta / (1 + beta * jnp.sum(k * k, axis=-1, keepdims=True))
    if self.is_mutable_collection("gates") and not self.is_initializing():
      decay = 1 - beta[..., None] * (k * k)[..., None, :]
      self.sow("gates", "log_decay", jnp.log(decay))  # See `jaxseq.inspection`.
    o, memory = ops.diagonal_delta_rule(
      x,
      beta,
      k,
      q,
      initial_state=memory,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    return o + (self._skip() * x).astype(o.dtype), memory


class Longhorn(Mixer):
  """A state space whose update is a step of regression.

  Attributes:
    expand: Channels of the state space, as a multiple of `features`.
    state_size: N, numbers of state for each channel.
    dt_rank: Rank of the projection to beta. If None, features / 16, rounded up.
  """

  expand: int = 2
  state_size: int = 16
  dt_rank: int | None = None

  @property
  def width(self) -> int:
    return self.expand * self.features

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    ssm = LonghornSSM(**ssm_options(self), start=START, name="ssm")
    run = lambda u: ssm(u, state, segment_ids=segment_ids)
    return gated(self, x, segment_ids, run)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> SelectiveState:
    return SelectiveState.zeros(batch_size, self.width, self.state_size)
