"""Linear projections whose parameters carry the names of their axes."""

import flax.linen as nn
import jax

from jaxseq.ops import dispatch

__all__ = ["projection"]


def projection(
  features: int,
  axes: tuple[str | None, str | None],
  *,
  use_bias: bool = False,
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal(),
  bias_init: nn.initializers.Initializer = nn.initializers.zeros,
  **dense,
) -> nn.Dense:
  """y = x W + b over the last axis.

  Args:
    features: Width of the output.
    axes: Logical names of W's two axes, such as ("embed", "heads"); `parallel` maps
      them to the mesh. "embed" is the model's width, "heads" the width of all heads.
    use_bias: Whether there is a b.
    kernel_init: Of W.
    bias_init: Of b.
    **dense: Further attributes of `nn.Dense`: dtype, param_dtype, name.
  """
  return nn.Dense(
    features,
    use_bias=use_bias,
    kernel_init=nn.with_logical_partitioning(kernel_init, axes),
    bias_init=nn.with_logical_partitioning(bias_init, axes[1:]),
    dot_general=_as_matrices if dispatch.platform() == "cpu" else None,
    **dense,
  )


def _as_matrices(x, W, dimension_numbers, **options):
  """The product with the axes before the last made one.

  XLA's CPU backend takes twice as long for the gradient of the same product otherwise.
  """
  del dimension_numbers  # Those of `nn.Dense`: the last axis of x, the first of W.
  y = jax.lax.dot(x.reshape(-1, x.shape[-1]), W, precision=options.get("precision"))
  return y.reshape(*x.shape[:-1], W.shape[1])
