import collections

import jax
import numpy as np
import pytest

from jaxseq.tasks import markov_chains

Config = markov_chains.MarkovChainsConfig
make = jax.jit(markov_chains.batch, static_argnums=(1, 2))


def rows(config, length, number):
  batch = make(jax.random.split(jax.random.key(0), number), config, length)
  return jax.tree.map(np.asarray, batch)


@pytest.mark.parametrize("W, k, beta", [(2, 1, 1.0), (3, 2, 0.5)])
def test_the_optimum_adds_beta_to_the_counts_so_far(W, k, beta):
  batch = rows(Config(vocab_size=W, order=k, beta=beta), 40, 10)
  for tokens, targets, weights, optimum in zip(
    *(batch[name] for name in ("inputs", "targets", "weights", "optimum"))
  ):
    np.testing.assert_array_equal(weights, np.arange(40) >= k - 1)
    np.testing.assert_array_equal(targets[k - 1 : -1], tokens[k:])
    assert not targets[: k - 1].any()
    contexts = [tuple(tokens[max(t + 1 - k, 0) : t + 1]) for t in range(40)]
    for t in range(k - 1, 40):
      counts = collections.Counter(
        tokens[i + 1] for i in range(k - 1, t) if contexts[i] == contexts[t]
      )
      n = np.array([counts[token] for token in range(W)])
      want = (n + beta) / (n.sum() + W * beta)
      np.testing.assert_allclose(optimum[t], want, rtol=1e-5)


def test_tokens_follow_the_optimum():
  """As they must if it is Bayes', for the chains' prior too."""
  batch = rows(Config(beta=0.3), 30, 2000)
  p = batch["optimum"][..., 1]
  for low in (0.0, 0.2, 0.4, 0.6, 0.8):
    among = (p >= low) & (p < low + 0.2)
    assert among.sum() > 1000
    assert abs(batch["targets"][among].mean() - p[among].mean()) < 0.02


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match="beta > 0; got 0"):
    Config(beta=0.0)
  with pytest.raises(ValueError, match="vocab_size >= 2; got 1"):
    Config(vocab_size=1)
  with pytest.raises(ValueError, match="sequence_length >= 3; got 2"):
    make(jax.random.split(jax.random.key(0), 2), Config(order=3), 2)
