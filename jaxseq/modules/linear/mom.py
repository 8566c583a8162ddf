"""Mixture of Memories (MoM, Du et al. 2025, arXiv:2502.13685).

p_t = softmax(x_t W_r),   memories m in topk(p_t),   w_tm = p_tm / sum over the chosen
M_t^m = update(M_{t-1}^m, k_t^m, v_t^m),   k^m, v^m of projections of its own
o_t = sum_m w_tm (M_t^m)^T q_t + (M_t^s)^T q_t,    M^s a memory of all tokens
y_t = (norm(o_t) * silu(x_t W_g)) W_o

The update is the authors' main one, the gated delta rule (Gated DeltaNet): decays and
betas are of each memory too, and short convolutions run along the tokens of a memory. A
memory that a token does not go to stays as it is, and costs the recurrence nothing. Its
keys and values are computed all the same, for one product that is large.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxseq import layers, ops
from jaxseq.layers import linear_init, routing, time_scales
from jaxseq.modules.mixer import Mixer

__all__ = ["MixtureOfMemories", "MixtureOfMemoriesState"]

CONV_SIZE = 4  # Taps W of the short convolutions.

# Xavier uniform with a gain of 2^-2.5, as in Gated DeltaNet.
INIT = nn.initializers.variance_scaling(2.0**-5, "fan_avg", "uniform")


class MixtureOfMemoriesState(NamedTuple):
  """The memories, that of all tokens last, and the last q, k and v before the taps."""

  memory: Float[Array, "B M H K V"]
  inputs: Float[Array, "B M W-1 2HK+HV"]


class MixtureOfMemories(Mixer):
  """Several memories, few of which a token is written to and read from.

  Sows the loss "load_balance"; see `layers.routing`. The authors add 0.01 of it.

  Attributes:
    num_heads: Heads H.
    num_memories: Memories, besides the one of all tokens.
    num_active: Memories that a token goes to, besides that one.
    head_dim: K of a head. 3/4 D / H if None, as in Gated DeltaNet.
    expand_v: V / K.
    norm_epsilon: Of the norm over each head's outputs.
  """

  num_heads: int = 4
  num_memories: int = 4
  num_active: int = 2
  head_dim: int | None = None
  expand_v: float = 2.0
  norm_epsilon: float = 1e-5

  def __post_init__(self):
    super().__post_init__()
    if self.head_dim is None and self.features * 3 % (4 * self.num_heads):
      raise ValueError(
        "MixtureOfMemories needs num_heads that divide 3/4 features = "
        f"{self.features * 3 / 4:g}, or head_dim; got {self.num_heads}"
      )
    if not 1 <= self.num_active <= self.num_memories:
      raise ValueError(
        "MixtureOfMemories needs num_active from 1 to num_memories = "
        f"{self.num_memories}; got {self.num_active}"
      )

  @property
  def key_size(self) -> int:
    return self.head_dim or self.features * 3 // (4 * self.num_heads)

  @property
  def value_size(self) -> int:
    return round(self.key_size * self.expand_v)

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    B, T, _ = x.shape
    kind, H, M = x.dtype, self.num_heads, self.num_memories + 1
    x = ops.segments.clear_padding(x, segment_ids)
    before = MixtureOfMemoriesState(None, None) if state is None else state
    types = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    router = routing.Router(
      self.num_memories, self.num_active, self.param_dtype, name="router"
    )
    weights, route = router(x, segment_ids)
    weights /= weights.sum(axis=-1, keepdims=True)
    # The memory of all tokens is the last one.
    route = jnp.pad(route, ((0, 0), (0, 0), (0, 1)), constant_values=M - 1)
    weights = jnp.pad(weights, ((0, 0), (0, 0), (0, 1)), constant_values=1.0)

    def project(x, width, name, axes=("embed", "heads")):
      return layers.projection(width, axes, kernel_init=INIT, name=name, **types)(x)

    def of_memories(width, name):
      return _Projections(M, width, name=name, **types)(x, route)

    widths = [H * self.key_size, H * self.key_size, H * self.value_size]
    q = project(x, widths[0], "q")[:, :, None]
    q = jnp.broadcast_to(q, (*route.shape, widths[0]))
    k, v = of_memories(widths[1], "k"), of_memories(widths[2], "v")
    init = nn.with_logical_partitioning(linear_init.kernel_init, (None, "heads"))
    taps = self.param("conv", init, (CONV_SIZE, sum(widths)), self.param_dtype)
    mixed, inputs = ops.routed_short_conv(
      jnp.concatenate([q, k, v], axis=-1),
      taps,
      route,
      M,
      activation="silu",
      initial_state=before.inputs,
      segment_ids=segment_ids,
    )
    q, k, v = (
      y.reshape(*route.shape, H, -1)
      for y in jnp.split(mixed, [widths[0], 2 * widths[0]], axis=-1)
    )
    q, k = (layers.l2_normalize(y).astype(self.dtype) for y in (q, k))
    beta = nn.sigmoid(of_memories(H, "beta").astype(jnp.float32))
    log_decay = self._log_decay(of_memories(H, "dt"))
    self.show(log_decay=log_decay[:, :, -1])
    o, memory = ops.routed_gated_delta_rule(
      q,
      k,
      v,
      log_decay,
      beta,
      route,
      M,
      initial_state=before.memory,
      segment_ids=segment_ids,
      implementation=self.implementation,
    )
    o = jnp.einsum("btr,btrhv->bthv", weights, o.astype(jnp.float32)).astype(o.dtype)
    norm = layers.RMSNorm(
      self.norm_epsilon, axes=(None,), param_dtype=self.param_dtype, name="norm"
    )
    o = norm(o).reshape(B, T, -1)
    o *= nn.silu(project(x, H * self.value_size, "gate"))
    y = project(o, self.features, "out", ("heads", "embed")).astype(kind)
    return y, MixtureOfMemoriesState(memory, inputs)

  def _log_decay(self, dt):
    """As in Mamba-2, with rates and step sizes that all memories share."""
    rates = nn.with_logical_partitioning(time_scales.rate_init, ("heads",))
    steps = nn.with_logical_partitioning(time_scales.step_init, ("heads",))
    A_log = self.param("A_log", rates, (self.num_heads,), self.param_dtype)
    dt_bias = self.param("dt_bias", steps, (self.num_heads,), self.param_dtype)
    return -jnp.exp(A_log) * nn.softplus(dt.astype(jnp.float32) + dt_bias)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> MixtureOfMemoriesState:
    H, K, V = self.num_heads, self.key_size, self.value_size
    shape = (batch_size, self.num_memories + 1)
    inputs = jnp.zeros((*shape, CONV_SIZE - 1, H * (2 * K + V)))
    return MixtureOfMemoriesState(jnp.zeros((*shape, H, K, V)), inputs)


class _Projections(nn.Module):
  """Of the products x W^m with all matrices, those that a token is routed to."""

  num_matrices: int
  features: int
  dtype: DTypeLike
  param_dtype: DTypeLike

  @nn.compact
  def __call__(self, x: Float[Array, "B T D"], route: Int[Array, "B T R"]):
    init = nn.initializers.variance_scaling(
      2.0**-5, "fan_avg", "uniform", batch_axis=(0,)
    )
    init = nn.with_logical_partitioning(init, (None, "embed", "heads"))
    shape = (self.num_matrices, x.shape[-1], self.features)
    W = self.param("kernel", init, shape, self.param_dtype)
    y = jnp.einsum("btd,mdf->btmf", x.astype(self.dtype), W.astype(self.dtype))
    return jnp.take_along_axis(y, route[..., None], axis=2)
