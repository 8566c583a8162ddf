import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseq import ops, testing
from jaxseq.ops.rnn import wkv as module

jitted = jax.jit(ops.wkv, static_argnames="implementation")

FORMS = sorted(set(module.IMPLEMENTATIONS) - {"recurrent"})
BUDGET = 3e-6  # Of float32 against float64, as a share of the largest value.


def case(T, packed, spread=1.0, seed=0):
  """k of any size with a large `spread`; decays from none to all in one step."""
  rng = np.random.default_rng(seed)
  k, v = spread * rng.normal(size=(2, T, 5)), rng.normal(size=(2, T, 5))
  log_decay = -np.array([0.0, 0.01, 0.5, 3.0, 200.0])
  bonus, n, m = rng.normal(size=5), rng.normal(size=(2, 5)), rng.normal(size=(2, 5))
  state = n, rng.uniform(0.5, 2, (2, 5)), m
  ids = np.sort(rng.integers(1, 4, (2, T)), axis=1)
  ids[0, : T // 4], ids[1, T - T // 5 :] = 0, 0
  return (k, v, log_decay, bonus), state, ids if packed else None


def loop(k, v, log_decay, bonus, state, ids):
  """Sums of exponentials in numpy, the exponents' maximum taken out of each anew."""
  B, T, D = k.shape
  out = np.zeros(k.shape)
  last = []
  for b in range(B):
    n, d, m = (s[b] for s in state)
    terms, document = [(n, d, m)], None  # Numerator, denominator, exponent now.

    def total(terms):
      top = np.max([e for *_, e in terms], axis=0)
      sums = [[w * np.exp(e - top) for w in (a, c)] for a, c, e in terms]
      return np.sum([s[0] for s in sums], 0), np.sum([s[1] for s in sums], 0), top

    for t in range(T):
      token = 1 if ids is None else ids[b, t]
      if token == 0:
        continue
      if document not in (None, token):
        terms = []
      document = token
      now = (v[b, t], np.ones(D), k[b, t])
      top = total([*terms, (*now[:2], k[b, t] + bonus)])
      out[b, t] = top[0] / top[1]
      terms = [(a, c, e + log_decay) for a, c, e in terms] + [now]
    last.append(total(terms))
  return out, *map(np.stack, zip(*last))


def low(state):
  return ops.WKVState(*(jnp.asarray(s, jnp.float32) for s in state))


def error(got, want):
  return np.abs(np.asarray(got) - want).max() / np.abs(want).max()


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
  monkeypatch.setattr(module, "CHUNK_SIZE", 8)


@pytest.mark.parametrize(
  "T, spread, packed",
  [(1, 1.0, True), (37, 1.0, False), (37, 1.0, True), (37, 300.0, False)],
)
def test_every_form_is_the_loop(T, spread, packed):
  args, state, ids = case(T, packed, spread)
  args = [np.float32(a) for a in args]
  want = loop(*map(np.float64, args), state, ids)
  for form in module.IMPLEMENTATIONS:
    run = lambda args, state, form=form: jitted(
      *args, initial_state=state, segment_ids=ids, implementation=form
    )
    o, last = jax.jit(run)(args, low(state))
    # An average may rest on the difference of exponents of the size of `spread`.
    assert max(map(error, (o, *last), want)) < BUDGET * max(1, spread / 10), form


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_the_definition_in_float64(form):
  args, state, ids = case(19, packed=True)

  def gradients(form):
    def loss(args, state):
      o, last = jitted(*args, initial_state=state, segment_ids=ids, implementation=form)
      return jnp.sum(jnp.sin(o)) + sum(jnp.sum(jnp.cos(s)) for s in last)

    return jax.jit(jax.grad(loss, argnums=(0, 1)))

  leaves = lambda tree: [np.asarray(x) for x in jax.tree.leaves(tree)]
  with jax.enable_x64():
    wide = tuple(map(jnp.asarray, args)), ops.WKVState(*map(jnp.asarray, state))
    want = leaves(gradients("recurrent")(*wide))
    assert max(map(error, leaves(gradients(form)(*wide)), want)) < 1e-12
  got = gradients(form)(tuple(jnp.asarray(a, jnp.float32) for a in args), low(state))
  assert max(map(error, leaves(got), want)) < 1e-5


def test_without_decay_and_bonus_it_is_softmax_over_the_tokens_so_far():
  (k, v, *_), _, _ = case(20, False)
  k, v = jnp.asarray(k, jnp.float32), jnp.asarray(v, jnp.float32)
  o, _ = jitted(k, v, jnp.zeros(5), jnp.zeros(5), implementation="chunked")
  scores = jnp.where(jnp.tril(jnp.ones((20, 20)))[..., None] > 0, k[:, None], -jnp.inf)
  want = jnp.einsum("btsd,bsd->btd", jax.nn.softmax(scores, axis=2), v)
  testing.assert_close(o, want)


def test_padding_alone_leaves_the_empty_state():
  k = jnp.full((1, 4, 3), jnp.nan)
  ids = jnp.zeros((1, 4), jnp.int32)
  for form in module.IMPLEMENTATIONS:
    o, state = jitted(
      k, k, -jnp.ones(3), jnp.ones(3), segment_ids=ids, implementation=form
    )
    assert not o.any()
    testing.assert_close(state, module.empty((1, 3), jnp.float32))


@settings(max_examples=2, deadline=None, derandomize=True)
@given(st.integers(2, 20), st.integers(1, 19), st.sampled_from(FORMS))
def test_any_split_gives_the_whole(T, cut, form):
  cut = min(cut, T - 1)
  (k, v, *rest), state, _ = case(T, False, seed=T)
  run = jax.jit(
    lambda part, state: jitted(
      *(jnp.asarray(a, jnp.float32) for a in (*part, *rest)),
      initial_state=state,
      implementation=form,
    )
  )
  whole, last = run((k, v), low(state))
  head, between = run((k[:, :cut], v[:, :cut]), low(state))
  tail, end = run((k[:, cut:], v[:, cut:]), between)
  testing.assert_close((jnp.concatenate([head, tail], 1), end), (whole, last))


def test_wrong_shapes_are_named():
  k = jnp.ones((2, 5, 3))
  with pytest.raises(ValueError, match="wkv needs bonus .* got shape"):
    jitted(k, k, jnp.ones(3), jnp.ones(4))
  with pytest.raises(ValueError, match=r"initial_state\.maximum"):
    state = ops.WKVState(jnp.ones((2, 3)), jnp.ones((2, 3)), jnp.ones((2, 4)))
    jitted(k, k, jnp.ones(3), jnp.ones(3), initial_state=state)
  with pytest.raises(ValueError, match="'auto' or one of"):
    jitted(k, k, jnp.ones(3), jnp.ones(3), implementation="fast")
