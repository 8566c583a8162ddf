"""The convolution in the kernels' layout, as one sum of shifted products.

    y_t = act(b + sum_d w_{W-1-d} x_{t-d})        over 0 <= d <= reach_t

`reach` says how many earlier tokens a token sees, at most W - 1 and at most as many as
there are: it ends at the start of a document.
"""

import jax
import jax.numpy as jnp

__all__ = ["activate", "forward"]


def activate(y, activation):
  """The activation of that name, or none."""
  return y * jax.nn.sigmoid(y) if activation == "silu" else y


def forward(x, weight, bias, reach, *, activation):
  """x [B, T, D], weight [W, D], bias [D], reach [B, T] int32 -> y [B, T, D].

  Sums in float32; y has the dtype of x.
  """
  taps = weight.shape[0]
  weight, y = weight.astype(jnp.float32), bias.astype(jnp.float32)
  for d in range(taps):
    shifted = jnp.pad(x, ((0, 0), (d, 0), (0, 0)))[:, : x.shape[1]]
    seen = (reach >= d)[..., None]
    y = y + weight[taps - 1 - d] * jnp.where(seen, shifted, 0).astype(jnp.float32)
  return activate(y, activation).astype(x.dtype)
