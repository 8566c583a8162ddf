"""Orders in which a scan reads the tokens of a grid of any number of axes."""

import numpy as np
from jaxtyping import Array, Float

__all__ = ["permutation", "read", "write"]


def permutation(grid: tuple[int, ...], fastest: int, reverse: bool = False):
  """Places of the tokens, row by row, in the order of a scan.

  Args:
    grid: Sizes of the axes; tokens are written with the last axis fastest.
    fastest: The axis along which neighbours in the scan are neighbours; it changes
      places with the last.
    reverse: Whether the scan begins at the end.
  """
  place = np.arange(np.prod(grid)).reshape(grid).swapaxes(fastest, -1).reshape(-1)
  return place[::-1] if reverse else place


def read(x: Float[Array, "B T *D"], order: np.ndarray) -> Float[Array, "B T *D"]:
  """The tokens as the scan meets them."""
  return x[:, order]


def write(y: Float[Array, "B T *D"], order: np.ndarray) -> Float[Array, "B T *D"]:
  """The inverse of `read`."""
  return y[:, np.argsort(order)]
