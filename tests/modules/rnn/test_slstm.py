import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing
from jaxseq.modules.rnn import SLSTM


def sigmoid(a):
  return 1 / (1 + np.exp(-a))


def test_it_is_the_equations_in_float64():
  """Without a stabiliser, with all sums written out."""
  mixer = SLSTM(features=12, num_heads=3, dtype=jnp.float32)
  params, x = nn.unbox(testing.example(mixer))
  p = jax.tree.map(np.float64, params["params"])
  x64, T = np.float64(x), x.shape[1]
  padded = np.pad(x64, ((0, 0), (3, 0), (0, 0)))
  u = sum(padded[:, w : w + T] * p["conv"][w] for w in range(4)) + p["conv_bias"]
  u = u * sigmoid(u)
  heads = lambda a: a.reshape(*a.shape[:-1], 3, 4)
  product = lambda W, a: np.einsum("hjk,...hk->...hj", W, a)
  sources = u, u, x64, x64
  a = [product(p["gates"][:, g], heads(s)) for g, s in enumerate(sources)]
  h = c = n = np.zeros((2, 3, 4))
  want = []
  for t in range(T):
    i, f, z, o = (
      a[g][:, t] + p["bias"][:, g] + product(p["recurrent"][:, g], h) for g in range(4)
    )
    c = sigmoid(f) * c + np.exp(i) * np.tanh(z)
    n = sigmoid(f) * n + np.exp(i)
    h = sigmoid(o) * c / n
    normal = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5)
    want.append(normal.reshape(2, 12) * p["norm"]["scale"])
  y, _ = jax.jit(mixer.apply)(params, x)
  np.testing.assert_allclose(y, np.stack(want, 1), rtol=1e-4, atol=1e-4)


def test_forget_gates_begin_from_open_to_closed_and_the_recurrence_at_zero():
  mixer = SLSTM(features=12, num_heads=3, dtype=jnp.float32)
  params = nn.unbox(jax.jit(mixer.init)(jax.random.key(0), jnp.ones((1, 2, 12))))
  bias = params["params"]["bias"]
  np.testing.assert_allclose(bias[:, 1, 0], 5)
  np.testing.assert_allclose(bias[:, 1, -1], -7)
  np.testing.assert_allclose(bias[:, 1, 1], 5 - 12 * (1 / 3) ** 0.3, rtol=1e-6)
  assert not np.delete(bias, 1, axis=1).any()
  assert not params["params"]["recurrent"].any()


def test_heads_that_do_not_divide_are_named():
  with pytest.raises(ValueError, match="SLSTM needs num_heads .* = 32; got 5"):
    SLSTM(features=32, num_heads=5)
