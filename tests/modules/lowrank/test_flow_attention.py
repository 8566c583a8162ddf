import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import registry, testing


def heads_of(params, x):
  """sigmoid(q), sigmoid(k) and v of one sequence, each [H, T, K]."""

  def heads(name):
    y = np.float64(x) @ params[name]["kernel"] + params[name]["bias"]
    return np.moveaxis(y.reshape(len(x), 4, -1), 1, 0)

  sigmoid = lambda y: 1 / (1 + np.exp(-y))
  return sigmoid(heads("q")), sigmoid(heads("k")), heads("v")


def of_all(q, k, v):
  """The paper's equations, with the T x T matrix."""
  A = np.einsum("htk,hsk->hts", q, k)
  into, out_of = A.sum(2), A.sum(1)
  sink = (A / out_of[:, None]).sum(2)
  source = np.clip((A / into[..., None]).sum(1), -1, 1)
  competition = np.exp(source) / np.exp(source).sum(1, keepdims=True) * A.shape[1]
  o = np.einsum("hts,hsv->htv", A / into[..., None], v * competition[..., None])
  return o / (1 + np.exp(-sink))[..., None]


def so_far(q, k, v):
  """The authors' causal form, a token at a time."""
  T = q.shape[1]
  out = np.zeros_like(v)
  into, out_of, source = (np.zeros(q.shape[:2]) for _ in range(3))
  for t in range(T):
    n, seen = t + 1, slice(0, t + 1)
    into[:, t] = np.einsum("hk,hsk->h", q[:, t], k[:, seen])
    out_of[:, t] = np.einsum("hk,hsk->h", k[:, t], q[:, seen])
    count = np.arange(1, n + 1)
    A = np.einsum("hk,hsk->hs", q[:, t], k[:, seen])
    sink = (A * count / out_of[:, seen]).sum(1) / n
    to = np.einsum("hk,hsk->hs", k[:, t], q[:, seen])
    source[:, t] = np.clip((to * count / into[:, seen]).sum(1) / n, -1, 1)
    won = count * np.exp(source[:, seen])
    won /= np.cumsum(np.exp(source[:, seen]), axis=1)
    o = np.einsum("hs,hsv->hv", A * won / into[:, t, None], v[:, seen])
    out[:, t] = o / (1 + np.exp(-sink))[:, None]
  return out


@pytest.mark.parametrize(
  "name, want", [("flow_attention", so_far), ("flow_attention_bidirectional", of_all)]
)
def test_it_is_the_flow_of_the_paper(name, want):
  mixer = registry.mixer(name)(features=32, dtype=jnp.float32)
  params, x = testing.example(mixer)
  y, _ = jax.jit(mixer.apply)(params, x)
  p = jax.tree.map(np.float64, nn.unbox(params)["params"])
  o = np.stack([np.moveaxis(want(*heads_of(p, row)), 0, 1) for row in x])
  want = o.reshape(x.shape) @ p["out"]["kernel"] + p["out"]["bias"]
  testing.assert_close(y, want)
