"""Routers: which few of many parts a token goes to."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxseq.layers.projection import projection
from jaxseq.ops import segments

__all__ = ["Router", "load_balance"]


class Router(nn.Module):
  """The most probable parts of softmax(x W).

  It sows `load_balance`, as the loss "load_balance" in the collection "losses", where
  that is asked for. It computes in float32: parts that are nearly as probable must not
  change places by rounding.

  Attributes:
    num_parts: Parts M.
    num_active: Parts R that a token goes to.
    param_dtype: Of W.
  """

  num_parts: int
  num_active: int
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "B T D"], segment_ids: Int[Array, "B T"] | None = None
  ) -> tuple[Float[Array, "B T R"], Int[Array, "B T R"]]:
    """Returns the probabilities of the parts chosen, and which they are."""
    types = dict(dtype=jnp.float32, param_dtype=self.param_dtype)
    scores = projection(self.num_parts, ("embed", None), name="scores", **types)(x)
    p = jax.nn.softmax(scores)
    weights, route = jax.lax.top_k(p, self.num_active)
    if not self.is_initializing():
      self.sow("losses", "load_balance", load_balance(p, route, segment_ids))
    return weights, route


def load_balance(
  p: Float[Array, "B T M"],
  route: Int[Array, "B T R"],
  segment_ids: Int[Array, "B T"] | None = None,
) -> Float[Array, ""]:
  """M / R sum_m f_m p_m: 1 if all parts are used alike, M / R if the same are always.

  f_m is the share of tokens that go to part m and p_m its mean probability (Switch
  Transformers, Fedus et al. 2021, arXiv:2101.03961, eq. 4 to 6).

  Args:
    p: Probabilities of the parts.
    route: Those that each token goes to.
    segment_ids: Packed documents; padding does not count.
  """
  M, R = p.shape[-1], route.shape[-1]
  chosen = jax.nn.one_hot(route, M).sum(axis=-2)
  count = p.shape[0] * p.shape[1]
  if segment_ids is not None:
    p, chosen = (segments.clear_padding(x, segment_ids) for x in (p, chosen))
    count = jnp.maximum(jnp.sum(segment_ids != 0), 1)
  return M / R * jnp.sum(chosen.sum((0, 1)) * p.sum((0, 1))) / count**2
