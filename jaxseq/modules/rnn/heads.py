"""What the recurrent networks share: gates of heads that do not see one another.

Every head sees the whole input, and of the state its own part. R begins orthogonal for
each gate of each head.
"""

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from jaxseq import layers
from jaxseq.modules.mixer import Mixer

__all__ = ["check", "gates", "recurrent_weights"]


def check(mixer: Mixer):
  """Of a mixer with `num_heads`.

  Raises:
    ValueError: If they do not divide its features.
  """
  if mixer.features % mixer.num_heads:
    raise ValueError(
      f"{type(mixer).__name__} needs num_heads that divide features = "
      f"{mixer.features}; got {mixer.num_heads}"
    )


def gates(
  mixer: Mixer,
  x: Float[Array, "B T D"],
  num_gates: int,
  bias_init: nn.initializers.Initializer = nn.initializers.zeros,
) -> Float[Array, "B T H G K"]:
  """W x + b, for use inside the mixer's `__call__`.

  Args:
    mixer: Has `num_heads`.
    x: Inputs, cleared at padding.
    num_gates: G.
    bias_init: Of b, [H, G, K].
  """
  D, H = mixer.features, mixer.num_heads
  shape = (H, num_gates, D // H)
  project = layers.projection(
    num_gates * D,
    ("embed", "heads"),
    use_bias=True,
    bias_init=lambda key, flat, dtype: bias_init(key, shape, dtype).reshape(flat),
    dtype=mixer.dtype,
    param_dtype=mixer.param_dtype,
    name="gates",
  )
  return project(x).reshape(*x.shape[:2], *shape)


def recurrent_weights(mixer: Mixer, num_gates: int) -> Float[Array, "H G K K"]:
  """R in the mixer's dtype; likewise inside its `__call__`."""
  K = mixer.features // mixer.num_heads
  init = nn.with_logical_partitioning(_orthogonal, (None, None, "heads", None))
  shape = (mixer.num_heads, num_gates, K, K)
  return mixer.param("recurrent", init, shape, mixer.param_dtype).astype(mixer.dtype)


def _orthogonal(key, shape, dtype):
  """Each gate's matrix of each head is orthogonal."""
  H, gates, K, _ = shape
  one = lambda key: nn.initializers.orthogonal()(key, (K, K), dtype)
  return jax.vmap(one)(jax.random.split(key, H * gates)).reshape(shape)
