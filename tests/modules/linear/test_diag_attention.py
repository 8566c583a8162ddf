import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing
from jaxseq.modules.linear import DiagAttention
from jaxseq.modules.softmax import Attention

MIXER = DiagAttention(features=32, window=5, dtype=jnp.float32)


def test_each_block_is_attention_on_its_own():
  params, x = testing.example(MIXER)
  y, _ = jax.jit(MIXER.apply)(params, x)
  attention = Attention(features=32, rotary_theta=None, dtype=jnp.float32)
  for start in range(0, x.shape[1], MIXER.window):
    block = slice(start, start + MIXER.window)
    want, _ = jax.jit(attention.apply)(params, x[:, block])
    np.testing.assert_allclose(y[:, block], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  "check",
  [
    "a_split_sequence_gives_what_the_whole_gives",
    "decoding_from_the_initial_state_gives_what_the_whole_gives",
    "packed_documents_are_separate_documents",
    "padding_before_and_after_leaves_the_state",
  ],
)
def test_the_contract_holds_across_blocks(check):
  testing.CHECKS[check](MIXER)


def test_a_full_block_leaves_an_empty_state():
  params, x = testing.example(MIXER)
  _, state = jax.jit(MIXER.apply)(params, x[:, :10])
  assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(state))
