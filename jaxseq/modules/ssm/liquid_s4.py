"""Liquid-S4 (Hasani et al. 2022, arXiv:2209.12951).

    dh/dt = (A + B x) h + B x     becomes     h_t = (A + B 1^T x_t) h_{t-1} + B x_t

Unrolled, outputs also depend on products of inputs, by C A^l B^p with B^p =
B (1^T B)^{p-1} (B and C discrete; sec. 3). Of these the paper keeps the orders p = 2,
..., P, in one of two simplified kernels (algorithm 1):

    KB    y = S4(x) + sum_p C A^l B^p * v_p
    PB    y = S4(x) + sum_p C B^p v_p         the powers of A set to one

A product here is one of neighbours, v_p = x_t x_{t-1} ... x_{t-p+1}. That choice of
products is ours: the authors' code takes those at the end of the sequence, or reverses
their time axis, and so is not causal. All else is S4's.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseq import ops
from jaxseq.modules.ssm.s4 import S4

__all__ = ["LiquidS4", "LiquidS4State"]

KERNELS = ("PB", "KB")


class LiquidS4State(NamedTuple):
  """What the layer carries: S4's state, and the last products v_1, ..., v_{P-1}."""

  h: Float[Array, "B D N"]
  products: Float[Array, "B P-1 D"]


class LiquidS4(S4):
  """S4 whose transitions depend on the input, to an order.

  Attributes:
    kernel: "PB" or "KB".
    degree: Highest order P of products of inputs, at least 2.
  """

  kernel: str = "PB"
  degree: int = 2

  def __post_init__(self):
    super().__post_init__()
    if self.kernel not in KERNELS or self.degree < 2:
      raise ValueError(
        f"LiquidS4 needs kernel in {KERNELS} and degree at least 2; "
        f"got {self.kernel!r} and {self.degree}"
      )

  def _system(self, x, state=None, segment_ids=None):
    x = x.astype(jnp.float32)
    h, before = (None, None) if state is None else state
    _, b, C, kernel = system = self._discretized(x.shape[1])
    total = 2 * jnp.sum(b[:, : b.shape[1] // 2], axis=1)  # 1^T B, of conjugate pairs.
    sums, products = self._correlations(x, total, before, segment_ids)
    if self.kernel == "KB":  # B^p is B times a number, which the products can bear.
      y, h = self._run(system, x + sums, h, segment_ids)
    else:
      y, h = self._run(system, x, h, segment_ids)
      y += sums * (
        jnp.einsum("dn,dn->d", C[:, 0], b, precision="highest")
        if kernel is None
        else kernel[0, :, 0]
      )
    y += self._param("D", nn.initializers.normal(1.0)) * x
    return y, LiquidS4State(h, products)

  def _correlations(self, x, total, before, segment_ids):
    """sum_p total^{p-1} v_p for p > 1, and the last v_1, ..., v_{P-1}."""
    sums, product, last = 0, x, []
    for p in range(1, self.degree):
      state = None if before is None else before[:, p - 1]
      shifted, end = ops.token_shift(product, state, segment_ids)
      product = x * shifted
      sums += total**p * product
      last.append(end)
    return sums, jnp.stack(last, axis=1)

  @nn.nowrap
  def initial_state(self, batch_size: int) -> LiquidS4State:
    products = jnp.zeros((batch_size, self.degree - 1, self.features))
    return LiquidS4State(super().initial_state(batch_size), products)
