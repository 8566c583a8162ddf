"""Norms that need no statistics of the token when the model is used.

    RepBN(x) = BN(x) + eta x
    PRepBN(x) = lambda LN(x) + (1 - lambda) RepBN(x),     lambda from 1 to 0 in training

(SLAB, Guo et al. 2024, arXiv:2405.11582, sec. 3.2.) With the running mean and variance
RepBN is affine in each channel, so a linear layer after it takes it in: see `fold`.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

__all__ = ["PRepBN", "fold", "layer_norm_share"]

EPSILON = 1e-5  # Added to the variances.


def layer_norm_share(step: Int[Array, ""] | int, num_steps: int) -> Float[Array, ""]:
  """lambda at a step: falls linearly from 1 to 0 in `num_steps` steps, then stays."""
  return jnp.clip(1 - step / num_steps, 0, 1)


class PRepBN(nn.Module):
  """A layer norm that turns into a batch norm while the model is trained.

  The running mean and variance are in the collection "batch_stats", which a call with
  `train=True` updates if it is mutable.

  Attributes:
    momentum: Share of the running mean and variance that is kept at each step.
    axes: Logical name of the channels' axis.
    param_dtype: Of the parameters. The norms are float32; the output has the input's
      dtype.
  """

  momentum: float = 0.9
  axes: tuple[str | None] = ("embed",)
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "B T D"],
    layer_norm_share: Float[Array, ""] | float = 0.0,
    *,
    train: bool = False,
    segment_ids: Int[Array, "B T"] | None = None,
  ) -> Float[Array, "B T D"]:
    """Normalises each channel over the batch's real tokens, or each token, or mixes.

    Args:
      x: Inputs.
      layer_norm_share: lambda. Out of training it is 0.
      train: Whether the batch's own mean and variance are used, and the running ones
        updated.
      segment_ids: 0 at padding, which does not count.
    """
    y = x.astype(jnp.float32)
    ones = nn.with_logical_partitioning(nn.initializers.ones, self.axes)
    zeros = nn.with_logical_partitioning(nn.initializers.zeros, self.axes)
    options = dict(
      epsilon=EPSILON, scale_init=ones, bias_init=zeros, param_dtype=self.param_dtype
    )
    mask = None if segment_ids is None else (segment_ids != 0)[..., None]
    batch_norm = nn.BatchNorm(
      use_running_average=not train,
      momentum=self.momentum,
      name="batch_norm",
      **options,
    )
    scalar = nn.with_logical_partitioning(nn.initializers.ones, ())
    eta = self.param("eta", scalar, (), self.param_dtype)
    normed = batch_norm(y, mask=mask) + eta * y
    if train or self.is_initializing():
      token = nn.LayerNorm(name="layer_norm", **options)(y)
      normed = layer_norm_share * token + (1 - layer_norm_share) * normed
    return normed.astype(x.dtype)


def fold(
  variables: dict, kernel: Float[Array, "D F"], bias: Float[Array, "F"]
) -> tuple[Float[Array, "D F"], Float[Array, "F"]]:
  """A linear layer after `PRepBN`, as a linear layer of the norm's input.

  Args:
    variables: Those of the norm, "params" and "batch_stats", unboxed.
    kernel: Of the layer y = x W + b after it.
    bias: Likewise.

  Returns:
    W and b that give the same y without the norm.
  """
  params, stats = variables["params"], variables["batch_stats"]["batch_norm"]
  norm = params["batch_norm"]
  scale = norm["scale"] / jnp.sqrt(stats["var"] + EPSILON)
  shift = norm["bias"] - stats["mean"] * scale
  shift = jnp.dot(shift, kernel, precision="highest")
  return (scale + params["eta"])[:, None] * kernel, bias + shift
