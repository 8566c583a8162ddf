"""The convolution in the kernels' layout, as one sum of shifted products.

    y_t = act(b + sum_d w_{W-1-d} x_{t-d})        over 0 <= d <= reach_t

`reach` says how many earlier tokens a token sees, at most W - 1 and at most as many as
there are: it ends at the start of a document. At -1 stands padding: nobody sees it, and
y is zero. Without it a token sees all there are.
"""

import jax.numpy as jnp

__all__ = ["activate", "forward", "sigmoid", "slope"]


def sigmoid(y):
  """By tanh, of which TPUs have one instruction."""
  return 0.5 * jnp.tanh(0.5 * y) + 0.5


def slope(y, share):
  """Of silu at y, whose sigmoid is `share`."""
  return share * (1.0 + y * (1.0 - share))


def activate(y, activation):
  """The activation of that name, or none."""
  return y * sigmoid(y) if activation == "silu" else y


def forward(x, weight, bias, reach, *, activation):
  """x [B, T, D], weight [W, D], bias [D], reach [B, T] int32 or None -> y [B, T, D].

  Sums in float32; y has the dtype of x.
  """
  taps = weight.shape[0]
  weight, y = weight.astype(jnp.float32), bias.astype(jnp.float32)
  for d in range(taps):
    shifted = jnp.pad(x, ((0, 0), (d, 0), (0, 0)))[:, : x.shape[1]]
    if reach is not None:
      shifted = jnp.where((reach >= d)[..., None], shifted, 0)
    y = y + weight[taps - 1 - d] * shifted.astype(jnp.float32)
  y = activate(y, activation)
  if reach is not None:
    y = jnp.where((reach >= 0)[..., None], y, 0)
  return y.astype(x.dtype)
