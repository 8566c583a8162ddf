"""A learned state before the first token (Lina-Speech, arXiv:2410.23320).

    S_0 = S_empty + sum_r a_r b_r^T,    o, S_T = mixer(x, S_0)

To tune a frozen recurrent model to a task or a speaker, Lemerle et al. (2024) learn the
states that its layers start from: fewer numbers than a prompt, and none of its time.
This does so for any mixer that has a state:

    mixer = LearnedInitialState(registry.mixer("gla")(features=256), rank=1)
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.modules.mixer import Mixer
from jaxseq.typing import State

__all__ = ["LearnedInitialState"]


class LearnedInitialState(nn.Module):
  """A mixer that starts from a state of its parameters. At first it is the empty one.

  Attributes:
    mixer: The mixer inside; its own parameters are under the name "mixer". Its state is
      of constant size: a cache has no room for keys of no token.
    rank: Of what is learned of each matrix [K, V], as the paper has it. None learns all
      of its numbers.
  """

  mixer: Mixer
  rank: int | None = None

  def setup(self):
    empty = self.mixer.initial_state(1)
    leaves, self._structure = jax.tree_util.tree_flatten_with_path(empty)
    self._leaves = [self._learned(*leaf) for leaf in leaves]

  def _learned(self, path, empty: Float[Array, "1 ..."]) -> Float[Array, "1 ..."]:
    """A leaf of the empty state, with what is learned. Counts stay as they are."""
    if not jnp.issubdtype(empty.dtype, jnp.floating):
      return empty
    name = "state" + jax.tree_util.keystr(path, simple=True, separator="_")
    if self.rank is None or empty.ndim < 4:
      return empty + self._param(name, nn.initializers.zeros, empty.shape[1:])
    *rest, K, V = empty.shape[1:]
    a = self._param(f"{name}_a", nn.initializers.normal(1.0), (*rest, K, self.rank))
    b = self._param(f"{name}_b", nn.initializers.zeros, (*rest, self.rank, V))
    return empty + jnp.einsum("...kr,...rv->...kv", a, b, precision="highest")

  def _param(self, name, init, shape):
    init = nn.with_logical_partitioning(init, (None,) * len(shape))
    return self.param(name, init, shape, self.mixer.param_dtype)

  def __call__(
    self,
    x: Float[Array, "B T D"],
    state: State | None = None,
    *,
    segment_ids: Int[Array, "B T"] | None = None,
  ) -> tuple[Float[Array, "B T D"], State]:
    """As the mixer, but that None is the learned state.

    Raises:
      ValueError: If there are packed documents: all but a row's first would start from
        the empty state.
    """
    if segment_ids is not None:
      raise ValueError(
        "LearnedInitialState needs one document a row, without segment_ids; got some"
      )
    state = self.first_state(x.shape[0]) if state is None else state
    return self.mixer(x, state)

  def first_state(self, batch_size: int) -> State:
    """The learned state, for each sequence of a batch.

    Called through `apply(params, batch_size, method="first_state")`, as it depends on
    parameters.
    """
    repeat = lambda s: jnp.broadcast_to(s, (batch_size, *s.shape[1:]))
    return jax.tree.unflatten(self._structure, map(repeat, self._leaves))
