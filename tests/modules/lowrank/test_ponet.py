import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing
from jaxseq.modules.lowrank import PoNet


def layer(p, x, heads, size):
  """The equations of one document [T, D]."""
  T, D = x.shape
  Q, K, O, S, L = (
    x @ p[name]["kernel"] + p[name]["bias"]
    for name in ("q", "k", "fuse", "segment", "local")
  )
  g = np.zeros(D)
  for c in np.split(np.arange(D), heads):
    scores = K[:, c] @ Q[:, c].mean(axis=0) / np.sqrt(len(c))
    a = np.exp(scores - scores.max())
    g[c] = a @ K[:, c] / a.sum()
  P = np.zeros((T, D))
  for t in range(T):
    start = t - t % size
    segment = S[start : start + size].max(axis=0)
    P[t] = g * O[t] + segment * O[t] + L[max(t - 1, 0) : t + 2].max(axis=0)
  return P @ p["out"]["kernel"] + p["out"]["bias"]


def test_it_is_its_equations():
  mixer = PoNet(features=32, segment_size=4, dtype=jnp.float32)
  params, x = testing.example(mixer)
  y, _ = jax.jit(mixer.apply)(params, x)
  wide = lambda a: np.asarray(a, np.float64)
  p, x = jax.tree.map(wide, (nn.unbox(params)["params"], x))
  testing.assert_close(y, np.stack([layer(p, row, 4, 4) for row in x]))


def test_attributes_that_do_not_fit_are_named():
  with pytest.raises(ValueError, match="num_heads that divide features = 32; got 5"):
    PoNet(features=32, num_heads=5)
  with pytest.raises(ValueError, match="segment_size >= 1; got 0"):
    PoNet(features=32, segment_size=0)
