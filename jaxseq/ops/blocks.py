"""Cutting the time axis into blocks of one size, and putting it together again."""

import jax
import jax.numpy as jnp

__all__ = ["join", "split"]


def split(tree, size: int, fill=0):
  """[B, T, ...] -> [T / C, B, C, ...], the last block padded with `fill`.

  The blocks come first, ready for `lax.scan`.
  """

  def one(x):
    B, T = x.shape[:2]
    count = -(-T // size)
    pad = [(0, 0), (0, count * size - T)] + [(0, 0)] * (x.ndim - 2)
    x = jnp.pad(x, pad, constant_values=fill)
    return x.reshape(B, count, size, *x.shape[2:]).swapaxes(0, 1)

  return jax.tree.map(one, tree)


def join(tree, length: int):
  """[T / C, B, C, ...] -> [B, T, ...], the inverse of `split`."""

  def one(x):
    count, B, size = x.shape[:3]
    x = x.swapaxes(0, 1).reshape(B, count * size, *x.shape[3:])
    return x[:, :length]

  return jax.tree.map(one, tree)
