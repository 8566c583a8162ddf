"""The contract's checks fail on mixers that break it."""

import flax.linen as nn
import jax.numpy as jnp
import pytest

from jaxseq import ops, testing
from jaxseq.modules.mixer import Mixer


class Sum(Mixer):
  """The running sum of each document: keeps the contract, but for what is broken."""

  broken: str = ""

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    if self.broken != "padding":
      x = ops.segments.clear_padding(x, segment_ids)
    scale = nn.with_logical_partitioning(nn.initializers.ones, ("embed",))
    y = x * self.param("scale", scale, (self.features,))
    if self.broken == "causality":
      y = y + y.mean(axis=1, keepdims=True)
    h, last = ops.diagonal_recurrence(
      jnp.ones(self.features),
      y,
      initial_state=None if self.broken == "state" else state,
      segment_ids=None if self.broken == "packing" else segment_ids,
    )
    h = ops.segments.clear_padding(h.astype(self.dtype), segment_ids)
    return h.astype(x.dtype), last

  @nn.nowrap
  def initial_state(self, batch_size):
    return jnp.zeros((batch_size, self.features))


def test_a_mixer_that_keeps_the_contract_passes():
  testing.check_mixer(Sum(features=8, dtype=jnp.float32))


@pytest.mark.parametrize(
  "broken, check",
  [
    ("causality", "outputs_do_not_depend_on_later_inputs"),
    ("state", "a_split_sequence_gives_what_the_whole_gives"),
    ("packing", "packed_documents_are_separate_documents"),
    ("padding", "padding_is_ignored_whatever_it_holds"),
  ],
)
def test_a_broken_promise_is_found(broken, check):
  mixer = Sum(features=8, dtype=jnp.float32, broken=broken)
  with pytest.raises(AssertionError):
    testing.CHECKS[check](mixer)
