"""MesaNet's layer (von Oswald et al. 2025, arXiv:2506.05233).

q, k = silu(conv(x W)), of length 1 in each head,    v_t = x_t W_v
g_t = log sigmoid(x_t W_g + b_g),    beta_t = sigmoid(x_t W_b + b_b)
A_t = exp(g_t) A_{t-1} + beta_t k_t k_t^T,    B_t = exp(g_t) B_{t-1} + beta_t k_t v_t^T
o_t = B_t^T (A_t + diag(r))^-1 q_t,    r = softplus(rho) + 1/4
y_t = norm(o_t) W_o

That values have no convolution, and the bounds and initial values of r, are from the
authors' code.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.layers import linear_init
from jaxseq.modules.delta.gated_delta_net import CONV_SIZE
from jaxseq.modules.mixer import Mixer

__all__ = ["MesaNet", "MesaNetState"]

LEAST_RIDGE = 0.25
FIRST_RIDGE = 1.0


class MesaNetState(NamedTuple):
  """What the layer carries: the sums, and the last inputs of the convolutions."""

  memory: ops.MesaState
  q: Float[Array, "B W-1 D"]
  k: Float[Array, "B W-1 D"]


class MesaNet(Mixer):
  """A ridge regression of values on keys, solved anew at each token.

  Attributes:
    num_heads: Heads H; the authors' have 128 channels each.
    norm_epsilon: Of the norm over each head's outputs.
    max_steps: Most steps of conjugate gradients; see `ops.mesa`. The authors take 30.
  """

  num_heads: int = 4
  norm_epsilon: float = 1e-5
  max_steps: int | None = None

  def __post_init__(self):
    super().__post_init__()
    if self.features % self.num_heads:
      raise ValueError(
        f"MesaNet needs num_heads that divide features = {self.features}; "
        f"got {self.num_heads}"
      )

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    B, T, D = x.shape
    x = ops.segments.clear_padding(x, segment_ids)
    memory, q, k = MesaNetState(None, None, None) if state is None else state
    heads = lambda y: y.reshape(B, T, self.num_heads, -1)

    def direction(name, inputs):
      """Projected, mixed with the tokens just before, of length 1 in each head."""
      init = nn.with_logical_partitioning(linear_init.kernel_init, (None, "heads"))
      y, after = ops.short_conv(
        self._project(x, D, name),
        self.param(f"{name}_conv", init, (CONV_SIZE, D), self.param_dtype),
        activation="silu",
        initial_state=inputs,
        segment_ids=segment_ids,
      )
      return layers.l2_normalize(heads(y)).astype(self.dtype), after

    q, q_after = direction("q", q)
    k, k_after = direction("k", k)
    gate = lambda name: self._project(x, self.num_heads, name, use_bias=True)
    log_decay = nn.log_sigmoid(gate("decay").astype(jnp.float32))
    self.show(log_decay=log_decay)
    o, memory = ops.mesa(
      q,
      k,
      heads(self._project(x, D, "v")),
      log_decay,
      nn.sigmoid(gate("beta").astype(jnp.float32)),
      self._ridge(),
      initial_state=memory,
      segment_ids=segment_ids,
      max_steps=self.max_steps,
      implementation=self.implementation,
    )
    norm = layers.RMSNorm(
      self.norm_epsilon, axes=(None,), param_dtype=self.param_dtype, name="norm"
    )
    y = self._project(norm(o).reshape(B, T, D), D, "out", ("heads", "embed"))
    return y.astype(x.dtype), MesaNetState(memory, q_after, k_after)

  def _project(self, x, width, name, axes=("embed", "heads"), **options):
    return layers.projection(
      width,
      axes,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name=name,
      **options,
    )(x)

  def _ridge(self):
    """r, for each channel of each head."""
    first = math.log(math.expm1(FIRST_RIDGE - LEAST_RIDGE))
    init = nn.initializers.constant(first)
    init = nn.with_logical_partitioning(init, ("heads", None))
    shape = self.num_heads, self.features // self.num_heads
    return nn.softplus(self.param("ridge", init, shape, self.param_dtype)) + LEAST_RIDGE

  @nn.nowrap
  def initial_state(self, batch_size: int) -> MesaNetState:
    size = self.features // self.num_heads
    sums = jnp.zeros((batch_size, self.num_heads, size, size))
    inputs = jnp.zeros((batch_size, CONV_SIZE - 1, self.features))
    return MesaNetState(ops.MesaState(sums, sums), inputs, inputs)
