import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxseq import testing
from jaxseq.modules.linear import SparseStateExpansion


def one_sequence(p, x):
  """The layer a token at a time, in numpy: 4 heads, 4 partitions, 2 of them active."""
  x = np.float64(x)
  D, H = x.shape[1], 4
  product = lambda *names: np.linalg.multi_dot([x] + [p[n]["kernel"] for n in names])
  silu = lambda y: y / (1 + np.exp(-y))
  heads = lambda y: y.reshape(len(x), H, D // H)

  def softmax(y):
    y = np.exp(y - y.max(-1, keepdims=True))
    return y / y.sum(-1, keepdims=True)

  def decay(name):
    y = product(f"{name}_down", f"{name}_up") + p[f"{name}_up"]["bias"]
    return heads((1 / (1 + np.exp(-y))) ** (1 / 16))

  q, k, v = product("q"), product("k"), silu(heads(product("v")))
  parts = (
    silu(heads(q + product("q_change_down", "q_change_up"))) / (D // H) ** 0.5,
    softmax(heads(k + product("k_change_down", "k_change_up"))),
    decay("decay"),
  )
  shared = (silu(heads(q)) / (D // H) ** 0.5, softmax(heads(k)), decay("shared_decay"))
  e = softmax(x @ p["router"]["scores"]["kernel"])
  states, S = np.zeros((4, H, D // H, D // H)), np.zeros((H, D // H, D // H))
  out = []
  for t in range(len(x)):
    q, k, a = (y[t] for y in shared)
    S = a[..., None] * S + k[..., None] * v[t][:, None]
    o = np.einsum("hk,hkv->hv", q, S)
    for i in np.argsort(e[t])[-2:]:
      q, k, a = (y[t] for y in parts)
      states[i] = a[..., None] * states[i] + e[t, i] * k[..., None] * v[t][:, None]
      o += e[t, i] * np.einsum("hk,hkv->hv", q, states[i])
    out.append(o)
  o = np.stack(out)
  o = o / np.sqrt(np.mean(o**2, -1, keepdims=True) + 1e-5) * p["norm"]["scale"]
  o = o.reshape(x.shape) * silu(product("gate_down", "gate_up"))
  return o @ p["out"]["kernel"]


def test_it_is_its_equations_token_by_token():
  mixer = SparseStateExpansion(features=32, num_active=2, dtype=jnp.float32)
  params, x = testing.example(mixer)
  y, _ = jax.jit(mixer.apply)(params, x)
  p = jax.tree.map(np.float64, nn.unbox(params)["params"])
  testing.assert_close(y, np.stack([one_sequence(p, row) for row in x]))


def test_more_partitions_add_no_parameters_but_the_router_s():
  count = lambda n: sum(
    leaf.size
    for leaf in jax.tree.leaves(
      jax.eval_shape(
        SparseStateExpansion(features=32, num_partitions=n).init,
        jax.random.key(0),
        jnp.zeros((1, 3, 32)),
      )
    )
  )
  assert count(64) - count(4) == 60 * 32
