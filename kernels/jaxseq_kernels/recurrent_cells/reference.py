"""The recurrence, token by token: the oracle of the kernels' tests."""

import jax
import jax.numpy as jnp

from jaxseq_kernels.recurrent_cells.cells import CELLS

__all__ = ["forward"]


def forward(gates, weights, starts, valid, *state, cell):
  """See `dispatch.fused`. In the dtype of the state."""
  kind = state[0].dtype
  G = gates.shape[3]
  gates, weights = gates.astype(kind), weights.astype(kind)
  unseen = ((0, 0), (0, 0), (0, G - weights.shape[1]), (0, 0))

  def step(state, token):
    x, start, valid = token
    start, valid = start[:, None, None], valid[:, None, None]
    state = jax.tree.map(lambda s: jnp.where(start, 0, s), state)
    u = jnp.einsum("bhk,hgjk->bhgj", state[0], weights, precision="highest")
    new = CELLS[cell](state, tuple(jnp.moveaxis(x + jnp.pad(u, unseen), 2, 0)))
    state = jax.tree.map(lambda s, old: jnp.where(valid, s, old), new, state)
    return state, jnp.where(valid, new[0], 0)

  tokens = jax.tree.map(lambda x: x.swapaxes(0, 1), (gates, starts, valid))
  state, h = jax.lax.scan(step, state, tokens)
  return h.swapaxes(0, 1), *state
