import itertools
import math

import jax
import numpy as np
import pytest

from jaxseq.tasks import discrete_functions

D, LENGTH = 3, 17
Config = discrete_functions.DiscreteFunctionsConfig
make = jax.jit(discrete_functions.batch, static_argnums=(1, 2))


def literal(x, i, sign):
  return x[i] if sign > 0 else not x[i]


def family(name):
  """Its functions of bools, their probabilities, and which x each may be forced to."""
  values = dict(conjunction=(0, 1, -1), disjunction=(0, 1, -1), threshold=(0, 1, -1))
  values |= dict(majority=(0, 1), halfspace=range(-3, 4))
  spins = lambda x: [1 if bit else -1 for bit in x]
  for w in itertools.product(values.get(name, (0, 1)), repeat=D):
    terms = [(i, s) for i, s in enumerate(w) if s]
    p = math.prod(0.15 if s else 0.7 for s in w)
    dot = lambda x, w=w: sum(a * b for a, b in zip(w, spins(x)))
    if name == "conjunction":
      holds = lambda x, terms=terms: all(literal(x, *t) for t in terms)
      yield holds, p, holds
    elif name == "disjunction":
      holds = lambda x, terms=terms: any(literal(x, *t) for t in terms)
      yield holds, p, lambda x, holds=holds: not holds(x)
    elif name == "threshold":
      for bound in (-2.5, -1.5, -0.5, 0.5, 1.5, 2.5):
        yield (lambda x, b=bound, dot=dot: dot(x) > b), p, None
    elif name == "majority":
      p = math.prod(0.3 if s else 0.7 for s in w)
      yield (lambda x, dot=dot: dot(x) > 0), p, None
    elif name == "halfspace":
      yield (lambda x, dot=dot: dot(x) > 0), 1, None
    elif name == "parity" or len(terms) == 2:
      yield (lambda x, terms=terms: sum(x[i] for i, _ in terms) % 2 == 1), 1, None


def bayes(functions, xs, ys, query):
  """The mean of y: what each function makes of all the x and y there are."""
  total = mean = 0
  inputs = list(itertools.product((False, True), repeat=D))
  for f, p, forced in functions:
    if any(f(x) != y for x, y in zip(xs, ys)):
      continue
    for x in [*xs, query] if forced else []:
      possible = [z for z in inputs if forced(z)]
      p *= 0.7 / len(inputs) + (0.3 / len(possible) if forced(x) else 0)
    total += p
    mean += p * (1 if f(query) else -1)
  return mean / total


@pytest.mark.parametrize("name", discrete_functions.WEIGHTS)
def test_the_optimum_is_the_posterior_mean_over_the_family(name):
  keys = jax.random.split(jax.random.key(0), 8)
  batch = make(keys, Config(family=name, num_bits=D), LENGTH)
  batch = jax.tree.map(np.asarray, batch)
  functions = list(family(name))
  for tokens, targets, optimum in zip(
    batch["inputs"], batch["targets"], batch["optimum"]
  ):
    xs = [tuple(bool(bit > 0) for bit in x) for x in tokens[::2, :D]]
    ys = [bool(y > 0) for y in tokens[1::2, D]]
    assert not tokens[1::2, :D].any() and not tokens[::2, D].any()
    np.testing.assert_array_equal(targets[:-1:2, 0], tokens[1::2, D])
    assert set(np.abs(tokens[::2, :D]).ravel()) == set(np.abs(targets[::2, 0])) == {1}
    want = [bayes(functions, xs[:i], ys[:i], xs[i]) for i in range(len(xs))]
    np.testing.assert_allclose(optimum[::2, 0], want, atol=1e-5)
  assert (batch["weights"] == (np.arange(LENGTH) % 2 == 0)).all()


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match=r"a family of \['conjunction'.* got 'xor'"):
    Config(family="xor")
  with pytest.raises(ValueError, match="conjunction of 9 bits, which has 19683"):
    Config(num_bits=9)
  Config(family="sparse_parity", num_bits=20)
  with pytest.raises(ValueError, match="num_bits >= 2; got 1"):
    Config(num_bits=1)
  with pytest.raises(ValueError, match="sequence_length >= 1; got 0"):
    make(jax.random.split(jax.random.key(0), 2), Config(), 0)
