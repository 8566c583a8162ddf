"""The contract of a mixer.

    y, state = mixer.apply(params, x)                # x, y: [batch, time, features]
    y, state = mixer.apply(params, x, state)         # the next tokens
    y, state = mixer.apply(params, x, segment_ids=segment_ids)   # packed documents
    state = mixer.initial_state(batch_size)

One call trains, prefills, streams and decodes: T = 1 is a decode step. A mixer that
has no state, because it is not causal or cannot stream, returns None and refuses one.
A mixer whose memory fades shows the logarithms of its decays, [B, T, H] or [B, T, H,
K], to `jaxseq.inspection`.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxseq.typing import State

__all__ = ["Entry", "Mixer", "Paper"]


class Mixer(nn.Module):
  """What every mixer has.

  Attributes:
    features: Width D of input and output.
    implementation: Form of the op inside; see its docstring. "auto" is the fastest.
    dtype: Of the matrix products. Gates, sums, norms and states are float32.
    param_dtype: Of the stored parameters.
  """

  features: int
  implementation: str = "auto"
  dtype: DTypeLike = jnp.bfloat16
  param_dtype: DTypeLike = jnp.float32

  def __call__(
    self,
    x: Float[Array, "B T D"],
    state: State | None = None,
    *,
    segment_ids: Int[Array, "B T"] | None = None,
  ) -> tuple[Float[Array, "B T D"], State]:
    """Mixes tokens with those before them.

    Args:
      x: Inputs.
      state: What the tokens before left. The empty state if None.
      segment_ids: Packed documents; see `ops.segments`.

    Returns:
      Outputs in the dtype of `x`, and the state after the last token.
    """
    raise NotImplementedError

  def refuse_state(self, state: State | None):
    """For a mixer that has none.

    Raises:
      ValueError: If there is a state.
    """
    if state is not None:
      raise ValueError(f"{type(self).__name__} has no state to continue from; got one")

  def _param(self, name, init, shape, axes=("heads",)):
    """A parameter whose axes have these logical names."""
    init = nn.with_logical_partitioning(init, axes)
    return self.param(name, init, shape, self.param_dtype)

  def show(self, **gates: Array):
    """Sows gates into the collection "gates", where it is asked for."""
    if not self.is_initializing():
      for name, gate in gates.items():
        self.sow("gates", name, gate)

  def initial_state(self, batch_size: int) -> State:
    """The empty state: a pytree of arrays whose shapes never change.

    Raises:
      ValueError: If the mixer has none.
    """
    raise ValueError(f"{type(self).__name__} has no state: it cannot stream or decode")


@dataclasses.dataclass(frozen=True)
class Paper:
  """Where a mixer was published."""

  title: str
  year: int
  arxiv: str | None  # Its arXiv id; None if it has none.


@dataclasses.dataclass(frozen=True)
class Entry:
  """What is known of a mixer without building it.

  Attributes:
    name: The mixer's name in configs.
    cls: Its module.
    paper: Its source.
    op: The function of `jaxseq.ops` inside it, whose forms `implementation` names.
    state: How the state grows with time: not at all, up to a window, or with each
      token up to the length its cache was made for; or there is none.
    state_size: Numbers in the state of one sequence, from the module.
    causal: Whether an output depends on no later input.
    packing: Whether it takes `segment_ids`.
    rows: The ids of the systems it implements, in the project's list of papers.
  """

  name: str
  cls: type[Mixer]
  paper: Paper
  op: str
  state: Literal["constant", "window", "growing", "none"]
  state_size: Callable[[Mixer], int]
  causal: bool = True
  packing: bool = True
  rows: tuple[str, ...] = ()
