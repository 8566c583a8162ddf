"""Rotary position embedding (RoFormer, Su et al. 2021, arXiv:2104.09864, eq. 34).

    (x_i, x_{i+K/2}) turned by the angle  p theta^(-2i/K)        i = 0 .. K/2 - 1

so that a product of a query and a key depends on the distance of their positions only.
Channel i is paired with i + K/2 (the layout of GPT-NeoX and Llama); the paper pairs
neighbours, which is the same up to an order of channels.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

__all__ = ["rotary"]


def rotary(
  x: Float[Array, "B T H K"], positions: Int[Array, "B T"], *, theta: float = 10000.0
) -> Float[Array, "B T H K"]:
  """Turns queries or keys by their positions.

  Args:
    x: Queries or keys; K is even.
    positions: Places of the tokens in their documents.
    theta: Base of the wavelengths, which go from 2 pi to 2 pi theta tokens.

  Returns:
    The turned vectors, computed in float32, in the dtype of `x`.

  Raises:
    ValueError: If K is odd.
  """
  size = x.shape[-1]
  if size % 2:
    raise ValueError(f"rotary needs an even head size; got {size}")
  kind = jnp.promote_types(x.dtype, jnp.float32)
  frequencies = theta ** (-jnp.arange(0, size, 2, dtype=kind) / size)
  angles = positions[..., None, None].astype(kind) * frequencies  # [B, T, 1, K / 2]
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  a, b = jnp.split(x.astype(kind), 2, axis=-1)
  turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
  return turned.astype(x.dtype)
