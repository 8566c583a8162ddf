"""The cells: what a token makes of the state, given its gates.

    state_t = cell(state_{t-1}, a_t),    a_t = x_t + (R h_{t-1}, 0)

A state is a tuple of arrays of one shape, h first, and a_t the tuple of its gates, of
that shape each. As many as R has see h; they are the first. The kernels differentiate
these functions as they stand.
"""

import jax
import jax.numpy as jnp

__all__ = ["CELLS"]


def lstm(state, gates):
  """Gates: input, forget, candidate, output. See `ops.lstm`."""
  _, c = state
  i, f, g, o = gates
  c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
  return jax.nn.sigmoid(o) * jnp.tanh(c), c


def slstm(state, gates):
  """Gates: input, forget, candidate, output. See `ops.slstm`."""
  _, c, n, m = state
  i, f, z, o = gates
  kept = jnp.minimum(f, 0) - jnp.log1p(jnp.exp(-jnp.abs(f))) + m
  m = jnp.where(n == 0, i, jnp.maximum(kept, i))
  keep, write = jnp.exp(jnp.minimum(kept - m, 0)), jnp.exp(i - m)
  c = keep * c + write * jnp.tanh(z)
  n = jnp.maximum(keep * n + write, 1)
  return jax.nn.sigmoid(o) * c / n, c, n, m


def gru(state, gates):
  """Gates: reset, update, and the candidate's two terms, that of the state first.

  See `ops.gru`; the state is reset after the product.
  """
  (h,) = state
  r, z, u, n = gates
  z = jax.nn.sigmoid(z)
  return (z * h + (1 - z) * jnp.tanh(n + jax.nn.sigmoid(r) * u),)


CELLS = {"lstm": lstm, "slstm": slstm, "gru": gru}
