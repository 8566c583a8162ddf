"""What the linear attentions over a grid share: heads and projections."""

from jaxtyping import Array, Float

from jaxseq import layers, ops
from jaxseq.modules.mixer import Mixer

__all__ = ["check_heads", "merge", "project", "split"]


def check_heads(mixer: Mixer, multiple: int = 1):
  """Heads need a whole number of channels, a multiple of what is given.

  Raises:
    ValueError: If they have not.
  """
  if mixer.features % (mixer.num_heads * multiple):
    parts = "" if multiple == 1 else f" into multiples of {multiple}"
    raise ValueError(
      f"{type(mixer).__name__} needs num_heads that divide features = "
      f"{mixer.features}{parts}; got {mixer.num_heads}"
    )


def project(mixer, x, width, name, axes=("embed", "heads"), **options):
  """A linear map with a bias, in the mixer's dtypes."""
  options = dict(use_bias=True) | options
  types = dict(dtype=mixer.dtype, param_dtype=mixer.param_dtype)
  return layers.projection(width, axes, name=name, **types, **options)(x)


def split(mixer: Mixer, x: Float[Array, "B T HK"]) -> Float[Array, "B T H K"]:
  """The heads of projected tokens."""
  return x.reshape(*x.shape[:2], mixer.num_heads, -1)


def merge(mixer, o: Float[Array, "B T ..."], x, segment_ids):
  """The output projection of all heads: y in the dtype of x, zero at padding."""
  o = o.reshape(*x.shape[:2], -1).astype(mixer.dtype)
  y = project(mixer, o, mixer.features, "out", ("heads", "embed"))
  return ops.segments.clear_padding(y.astype(x.dtype), segment_ids)
