import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing
from jaxseq.modules.rnn import QRNN


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def loop(x, kernel, bias, pooling, window):
  """Sec. 2 of the paper, token by token."""
  names = ("z", *pooling)
  D = x.shape[-1]
  c, out = np.zeros((len(x), D)), []
  for t in range(x.shape[1]):
    taps = [x[:, t - w] if t >= w else np.zeros((len(x), D)) for w in range(window)]
    parts = np.split(np.concatenate(taps, -1) @ kernel + bias, len(names), -1)
    gates = {n: sigmoid(p) for n, p in zip(names[1:], parts[1:])}
    c = gates["f"] * c + gates.get("i", 1 - gates["f"]) * np.tanh(parts[0])
    out.append(gates.get("o", 1) * c)
  return np.stack(out, 1)


@pytest.mark.parametrize("pooling, window", [("f", 1), ("fo", 2), ("ifo", 3)])
def test_it_pools_as_the_paper_says(pooling, window):
  mixer = QRNN(features=5, pooling=pooling, window=window, dtype=jnp.float32)
  params, x = nn.unbox(testing.example(mixer))
  y, _ = jax.jit(mixer.apply)(params, x)
  conv = jax.tree.map(np.float64, params["params"]["conv"])
  want = loop(np.float64(x), conv["kernel"], conv["bias"], pooling, window)
  np.testing.assert_allclose(y, want, atol=1e-6)


def test_a_window_of_three_streams_token_by_token():
  mixer = QRNN(features=5, window=3, dtype=jnp.float32)
  for check in (
    testing.decoding_from_the_initial_state_gives_what_the_whole_gives,
    testing.packed_documents_are_separate_documents,
  ):
    check(mixer)


def test_a_pooling_that_the_paper_has_not_is_named():
  with pytest.raises(ValueError, match="pooling in .*'ifo'.*got 'max'"):
    QRNN(features=5, pooling="max")
  with pytest.raises(ValueError, match="window >= 1; got 0"):
    QRNN(features=5, window=0)
