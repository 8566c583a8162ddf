import jax
import jax.numpy as jnp
import numpy as np

from jaxseq.ops import documents

IDS = np.asarray([[0, 4, 4, 4, 2, 2, 0, 4], [0, 0, 0, 0, 0, 0, 0, 0]])
SPANS = [slice(1, 4), slice(4, 6), slice(7, 8)]


def test_sums_means_and_softmax_are_those_of_each_document():
  x = np.random.default_rng(0).normal(size=(2, 8, 3)).astype(np.float32)
  given = jnp.where((IDS == 0)[..., None], jnp.nan, x)
  total, mean, share = (
    np.asarray(f(given, IDS))
    for f in (documents.sums, documents.means, documents.softmax)
  )
  for span in SPANS:
    part = x[0, span]
    np.testing.assert_allclose(total[0, span], part.sum(0)[None].repeat(len(part), 0))
    np.testing.assert_allclose(mean[0, span][0], part.mean(0), rtol=1e-6)
    e = np.exp(part) / np.exp(part).sum(0)
    np.testing.assert_allclose(share[0, span], e, rtol=1e-5)
  assert not share[IDS == 0].any() and not total[1].any()
  np.testing.assert_array_equal(documents.counts((2, 8), IDS)[0, 1:6], [3, 3, 3, 2, 2])


def test_one_document_a_row_needs_no_ids():
  x = np.random.default_rng(0).normal(size=(2, 8, 3)).astype(np.float32)
  ids = jnp.ones((2, 8), jnp.int32)
  for f in (documents.sums, documents.means, documents.softmax, documents.last):
    want = jnp.broadcast_to(f(x, None), x.shape)
    np.testing.assert_allclose(f(x, ids), want, rtol=1e-5)


def test_the_last_token_is_that_of_each_document():
  places = jnp.broadcast_to(jnp.arange(8), (2, 8))
  np.testing.assert_array_equal(documents.last(places, IDS)[0, 1:6], [3, 3, 3, 5, 5])
  assert documents.last(places, IDS)[0, 7] == 7


def test_the_gradient_of_softmax_is_finite_at_padding():
  x = jnp.where((IDS == 0)[..., None], jnp.inf, jnp.ones((2, 8, 3)))
  loss = lambda x: jnp.sum(documents.softmax(x, IDS) ** 2)
  grad = jax.grad(loss)(x)
  assert np.isfinite(grad).all() and not grad[IDS == 0].any()
