import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing
from jaxseq.modules.linear import XLSTM7B


def layer(p, x, H):
  """The equations, one token at a time, without a stabilizer."""
  sigmoid = lambda a: 1 / (1 + np.exp(-a))
  cap = lambda a: 15 * np.tanh(a / 15)
  i = cap(x @ p["input_gate"]["kernel"] + p["input_gate"]["bias"])
  f = sigmoid(cap(x @ p["forget_gate"]["kernel"] + p["forget_gate"]["bias"]))
  q, k, v, z = (x @ p[n]["kernel"] for n in ("q", "k", "v", "output_gate"))
  q, k, v = (a.reshape(len(x), H, -1) for a in (q, k, v))
  C, n, out = np.zeros((H, q.shape[-1], v.shape[-1])), np.zeros(q.shape[1:]), []
  for t in range(len(x)):
    write = np.exp(i[t])[:, None] * k[t]
    C = f[t][:, None, None] * C + write[:, :, None] * v[t][:, None, :]
    n = f[t][:, None] * n + write
    r = q[t] / np.sqrt(q.shape[-1])
    weight = np.abs(np.einsum("hk,hk->h", r, n))[:, None]
    out.append(np.einsum("hk,hkv->hv", r, C) / np.maximum(weight, 1))
  o = np.stack(out)
  o = o - o.mean(-1, keepdims=True)
  o = o / np.sqrt((o**2).mean(-1, keepdims=True) + 1e-6)
  o = o.reshape(x.shape) * p["norm"]["scale"]
  return (o * sigmoid(z)) @ p["out"]["kernel"]


def test_it_is_the_equations_of_the_paper():
  mixer = XLSTM7B(features=32, input_bias=1.0, dtype=jnp.float32)
  params, x = testing.example(mixer)
  y, _ = jax.jit(mixer.apply)(params, x)
  wide = jax.tree.map(lambda a: np.asarray(a, np.float64), nn.unbox(params["params"]))
  testing.assert_close(y[0], layer(wide, np.asarray(x[0], np.float64), 4))


def test_gates_are_capped():
  mixer = XLSTM7B(features=32, dtype=jnp.float32)
  params, x = testing.example(mixer)
  _, state = jax.jit(mixer.apply)(params, 1e6 * x)
  assert state.m.max() <= 15


def test_heads_that_do_not_divide_the_keys_are_named():
  with pytest.raises(ValueError, match="num_heads that divide 0.5 x features = 16"):
    XLSTM7B(features=32, num_heads=32)
