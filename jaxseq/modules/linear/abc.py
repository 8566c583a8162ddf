"""Attention with bounded-memory control (Peng et al. 2021, arXiv:2110.02488, sec. 3).

    phi_t = exp(x_t W_phi)                                  how much goes to each slot
    K_t = sum_{j<=t} phi_j k_j^T / sum_{j<=t} phi_j         keys of the slots [M, K]
    V_t = sum_{j<=t} phi_j v_j^T / sum_{j<=t} phi_j         values of the slots [M, V]
    y_t = (V_t^T softmax(K_t q_t / sqrt(K))) W_o            by heads

This is the learned control of the paper, ABC_MLP, in its causal form.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer

__all__ = ["ABC", "ABCState"]


class ABCState(NamedTuple):
  """What the slots hold, and the logarithm of the weights they have got."""

  slots: ops.SlotState
  log_weight: Float[Array, "B H M"]


class ABC(Mixer):
  """Softmax attention to slots, each a weighted mean of all tokens so far.

  Attributes:
    num_heads: Heads H.
    num_slots: Slots M of each head.
  """

  num_heads: int = 4
  num_slots: int = 64

  def __post_init__(self):
    super().__post_init__()
    if self.features % self.num_heads:
      raise ValueError(
        f"ABC needs num_heads that divide features = {self.features}; "
        f"got {self.num_heads}"
      )

  @property
  def head_size(self) -> int:
    return self.features // self.num_heads

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    x = ops.segments.clear_padding(x, segment_ids)
    state = self.initial_state(x.shape[0]) if state is None else state

    def project(x, size, name, axes=("embed", "heads")):
      types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
      return layers.projection(self.num_heads * size, axes, name=name, **types)(x)

    heads = lambda y: y.reshape(*x.shape[:2], self.num_heads, -1)
    q, k, v = (heads(project(x, self.head_size, name)) for name in "qkv")
    write, log_decay, log_weight = ops.softmax_writes(
      heads(project(x, self.num_slots, "slots")), state.log_weight, segment_ids
    )
    o, slots = ops.slot_attention(
      q,
      k,
      v,
      write,
      log_decay,
      initial_state=state.slots,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    y = project(o.reshape(x.shape), self.head_size, "out", ("heads", "embed"))
    return y.astype(x.dtype), ABCState(slots, log_weight)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> ABCState:
    shape = (batch_size, self.num_heads, self.num_slots)
    slots = jnp.zeros((*shape, self.head_size))
    # The log of zero, as `ops.softmax_writes` has it.
    return ABCState(ops.SlotState(slots, slots), jnp.full(shape, -1e30))
