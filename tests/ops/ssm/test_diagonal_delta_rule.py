import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import ops
from jaxseq.ops.ssm import diagonal_delta_rule as module

BUDGET = 3e-6  # Of float32 against float64, as a share of the largest value.


def case(T, B=2, D=4, N=3):
  rng = np.random.default_rng(T)
  k = rng.normal(size=(B, T, N))
  # Steps up to those that take out all that a key of length 1 finds.
  beta = rng.uniform(0, 1, (B, T, D)) / np.sum(k * k, axis=-1, keepdims=True)
  beta[:, ::3] = 0
  x, q, h = (rng.normal(size=s) for s in ((B, T, D), (B, T, N), (B, D, N)))
  ids = np.ones((B, T), np.int32)
  ids[0, : T // 4], ids[0, T // 2 :], ids[1, T - T // 5 :] = 0, 2, 0
  return x, beta, k, q, h, ids


def loop(x, beta, k, q, h, ids):
  """The recurrence in numpy, float64, with the diagonal taken of the whole matrix."""
  h, y = h.copy(), np.zeros_like(x)
  for b in range(len(x)):
    before = None
    for t in np.flatnonzero(ids[b]):
      if before not in (None, ids[b, t]):
        h[b] = 0
      before = ids[b, t]
      for d in range(x.shape[2]):
        transition = np.eye(k.shape[2]) - beta[b, t, d] * np.outer(k[b, t], k[b, t])
        h[b, d] = np.diag(transition) * h[b, d] + beta[b, t, d] * k[b, t] * x[b, t, d]
      y[b, t] = h[b] @ q[b, t]
  return y, h


@pytest.mark.parametrize("form", sorted(set(module.IMPLEMENTATIONS) - {"pallas_tpu"}))
def test_every_form_is_the_loop(form):
  for T in (1, 37):
    *args, ids = case(T)
    if T == 1:
      ids[:] = 1
    want = loop(*args, ids)
    *tokens, h = (a.astype(np.float32) for a in args)
    run = jax.jit(ops.diagonal_delta_rule, static_argnames="implementation")
    got = run(*tokens, initial_state=h, segment_ids=ids, implementation=form)
    for a, b in zip(got, want):
      assert np.abs(np.asarray(a) - b).max() < BUDGET * np.abs(b).max()


def test_with_keys_of_one_number_it_is_the_delta_rule():
  x, beta, k, q, h, ids = (
    jnp.asarray(a, a.dtype if a.dtype == np.int32 else jnp.float32)
    for a in case(37, N=1)
  )

  @jax.jit
  def both(x, beta, k, q, h):
    y, last = ops.diagonal_delta_rule(x, beta, k, q, initial_state=h, segment_ids=ids)
    heads = lambda a: jnp.broadcast_to(a[..., None], (*x.shape, 1))
    o, S = ops.delta_rule(
      heads(q),
      heads(k),
      x[..., None],
      beta,
      initial_state=h[..., None],
      segment_ids=ids,
      scale=1.0,
      implementation="recurrent",
    )
    return (y, last), (o[..., 0], S[..., 0])

  got, want = both(x, beta, k, q, h)
  for a, b in zip(got, want):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_shape_that_does_not_fit_is_named():
  x, beta, k, q, *_ = case(4)
  with pytest.raises(ValueError, match="diagonal_delta_rule needs beta"):
    ops.diagonal_delta_rule(x, beta[..., :1], k, q)
