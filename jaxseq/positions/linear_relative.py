"""MD-LRPE: relative positions in several dimensions for linear attention.

    x -> [x * cos(a), x * sin(a)],    a_c = p_m theta_c

(LightNet, Qin et al. 2024, arXiv:2405.21022, sec. 3.3; of one dimension LRPE, Qin et
al. 2023, arXiv:2307.09270.) Channel c belongs to one of the M dimensions, p_m is the
token's coordinate along it. So a product of a query and a key is the sum over channels
of q_c k_c cos(a_c - a'_c): it depends on differences of coordinates alone, and every
channel has an angle of its own, where `rotary` turns pairs.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

__all__ = ["linear_relative"]


def linear_relative(
  x: Float[Array, "B T H K"],
  coordinates: Int[Array, "#B T M"],
  theta: Float[Array, "H E"],
) -> Float[Array, "B T H 2K"]:
  """Doubles the channels of queries or keys by the cosine and sine of their angles.

  Args:
    x: Queries or keys, or features of them.
    coordinates: Of each token, along the M dimensions.
    theta: Angles of a step, in radians. The first E channels are turned by the first
      dimension, and so on: E is K / M rounded up.

  Returns:
    The channels with their cosines, and then with their sines, computed in float32, in
    the dtype of `x`.

  Raises:
    ValueError: If E does not fit.
  """
  K, M, E = x.shape[-1], coordinates.shape[-1], theta.shape[-1]
  if E != -(-K // M):
    raise ValueError(
      f"linear_relative needs theta [H, {-(-K // M)}] for {K} channels of {M} "
      f"dimensions; got shape {theta.shape}"
    )
  kind = jnp.promote_types(x.dtype, jnp.float32)
  # [B, T, H, M, E]
  angles = coordinates[:, :, None, :, None].astype(kind) * theta[:, None]
  angles = angles.reshape(*angles.shape[:3], M * E)[..., :K]
  y = x.astype(kind)
  return jnp.concatenate([y * jnp.cos(angles), y * jnp.sin(angles)], -1).astype(x.dtype)
