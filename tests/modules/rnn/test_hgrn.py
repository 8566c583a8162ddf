import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops, testing
from jaxseq.modules.rnn import HGRN

ORACLE = np.load(pathlib.Path(__file__).parents[2] / "oracles" / "fla_hgrn.npz")


def test_its_recurrence_is_that_of_another_library():
  def run(x, g, h0):
    return ops.diagonal_recurrence(jnp.exp(g), x, initial_state=h0)

  args = [ORACLE[name] for name in ("x", "g", "h0")]
  (o, last), pull = jax.vjp(jax.jit(run), *args)
  np.testing.assert_allclose(o, ORACLE["o"], atol=1e-5)
  np.testing.assert_allclose(last, ORACLE["final_state"], atol=1e-5)
  for got, name in zip(pull((ORACLE["cot_o"], jnp.zeros_like(last))), ("x", "g", "h0")):
    np.testing.assert_allclose(got, ORACLE[f"grad_{name}"], rtol=1e-4, atol=1e-5)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("complex_states", [True, False])
def test_it_is_the_papers_layer(complex_states):
  mixer = HGRN(
    features=5, lower_bound=0.3, complex_states=complex_states, dtype=jnp.float32
  )
  params, x = nn.unbox(testing.example(mixer))
  y, _ = jax.jit(mixer.apply)(params, x)
  p = jax.tree.map(np.float64, params["params"])
  dense = lambda x, name: x @ p[name]["kernel"] + p[name]["bias"]
  silu = lambda x: x * sigmoid(x)
  c = silu(dense(np.float64(x), "input"))
  turn = 1.0
  if complex_states:
    c, turn = c[..., :5] + 1j * c[..., 5:], np.exp(1j * p["theta"])
  kept = 0.3 + 0.7 * sigmoid(dense(np.float64(x), "forget"))
  gate = silu(dense(np.float64(x), "gate"))
  h, want = np.zeros_like(c[:, 0]), []
  for t in range(x.shape[1]):
    h = kept[:, t] * turn * h + (1 - kept[:, t]) * c[:, t]
    z = gate[:, t] * (np.concatenate([h.real, h.imag], -1) if complex_states else h)
    z = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-5)
    want.append(dense(z * p["norm"]["scale"] + p["norm"]["bias"], "out"))
  testing.assert_close(y, np.stack(want, 1).astype(np.float32))


def test_the_angles_begin_as_the_authors():
  params = jax.jit(HGRN(features=4).init)(jax.random.key(0), jnp.ones((1, 1, 4)))
  theta = nn.unbox(params)["params"]["theta"]
  np.testing.assert_allclose(theta, [1, 1e-2, 1e-4, 1e-6], rtol=1e-5)


def test_a_bound_that_is_no_share_is_named():
  with pytest.raises(ValueError, match=r"lower_bound in \[0, 1\); got 1"):
    HGRN(features=4, lower_bound=1.0)
