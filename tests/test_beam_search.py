import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import beam_search, models, sampling

W, STOP = 4, 0


def bigram(params, tokens, state):
  """Logits by the last two tokens; the state is the last one, and a count of tokens."""
  last, count = state
  before = jnp.concatenate([last[0, :, None], tokens[:, :-1]], axis=1)
  jax.debug.callback(CALLS.append, tokens.shape)
  return params[before, tokens], (tokens[None, :, -1], count + tokens.shape[1])


CALLS = []
TABLE = 2 * jax.random.normal(jax.random.key(0), (W, W, W))
PROMPT = jnp.array([[1, 3], [2, 1], [3, 3]])


def start(rows=3):
  """The batch axis of `last` is 1, that of the count 0."""
  return jnp.zeros((1, rows), jnp.int32), jnp.zeros(rows, jnp.int32)


AXES = (1, 0)


def search(prompt=PROMPT, table=TABLE, **options):
  state = start(len(prompt))
  return beam_search.beam_search(
    bigram, table, prompt, state, state_axes=AXES, **options
  )


def log_p(prompt, tokens):
  table = np.float64(jax.nn.log_softmax(TABLE))
  history = [*prompt, *tokens]
  return sum(table[tuple(history[t : t + 3])] for t in range(len(tokens)))


def every_sequence(prompt, N, penalty):
  """All that end within N tokens with their scores, the best first."""
  going = range(1, W)
  found = [
    (*begin, STOP) for n in range(N) for begin in itertools.product(going, repeat=n)
  ]
  score = lambda y: log_p(prompt, y) / ((5 + len(y)) / 6) ** penalty
  return sorted(((score(y), y) for y in found), reverse=True)


@pytest.mark.parametrize("penalty", [0.0, 0.8])
def test_beams_that_hold_all_beginnings_find_the_best_of_all_sequences(penalty):
  N = 4
  beams = search(
    beam_size=(W - 1) ** N, num_tokens=N, stop_token=STOP, length_penalty=penalty
  )
  for b, prompt in enumerate(PROMPT.tolist()):
    want = every_sequence(prompt, N, penalty)
    assert len(want) == 1 + 3 + 9 + 27
    for place, (score, y) in enumerate(want):
      length = len(y)
      assert beams.tokens[b, place].tolist() == [*y, *[STOP] * (N - length)]
      assert beams.lengths[b, place] == length
      np.testing.assert_allclose(beams.scores[b, place], score, rtol=1e-5)
  # Then those cut off, again from the best.
  rest = np.asarray(beams.scores)[:, 40:]
  assert (np.diff(rest, axis=1) <= 0).all() and (beams.lengths[:, 40:] == N).all()


def by_hand(prompt, K, N, penalty):
  """The narrow search, written with lists."""
  alive, ended = [(0.0, ())], []
  for _ in range(N):
    new = [(log_p(prompt, (*y, w)), (*y, w)) for _, y in alive for w in range(W)]
    new = sorted(new, reverse=True)[: 2 * K]
    ended += [(s / ((5 + len(y)) / 6) ** penalty, y) for s, y in new if y[-1] == STOP]
    alive = [(s, y) for s, y in new if y[-1] != STOP][:K]
  cut_off = [(s / ((5 + N) / 6) ** penalty, y) for s, y in alive]
  return [*sorted(ended, reverse=True), *cut_off][:K]


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_narrow_beams_are_the_search_by_hand(penalty):
  beams = search(beam_size=3, num_tokens=6, stop_token=STOP, length_penalty=penalty)
  for b, prompt in enumerate(PROMPT.tolist()):
    for place, (score, y) in enumerate(by_hand(prompt, 3, 6, penalty)):
      assert beams.tokens[b, place, : len(y)].tolist() == list(y)
      np.testing.assert_allclose(beams.scores[b, place], score, rtol=1e-5)


def test_one_beam_without_a_stop_token_is_greedy():
  beams = search(beam_size=1, num_tokens=7)
  apply = lambda *args, segment_ids=None: bigram(*args)
  want = sampling.generate(
    apply, TABLE, PROMPT, start(), jax.random.key(0), num_tokens=7, temperature=0.0
  )
  np.testing.assert_array_equal(beams.tokens[:, 0], want)
  assert (beams.lengths == 7).all()


def test_the_search_ends_when_no_beginning_can_win_any_more():
  def calls(table):
    CALLS.clear()
    search(table=table, beam_size=2, num_tokens=30, stop_token=STOP)
    jax.effects_barrier()
    return len(CALLS)

  assert calls(TABLE.at[..., STOP].set(20.0)) <= 4
  assert calls(TABLE.at[..., STOP].set(-200.0)) == 30


def test_given_continuations_get_the_log_probability_of_their_tokens():
  beams = search(beam_size=5, num_tokens=6, stop_token=STOP)
  got = beam_search.log_probabilities(
    bigram, TABLE, PROMPT, start(), beams.tokens, stop_token=STOP, state_axes=AXES
  )
  np.testing.assert_allclose(got, beams.scores, rtol=1e-5)
  alone = beam_search.log_probabilities(
    bigram, TABLE, PROMPT, start(), beams.tokens[:, :, :1], state_axes=AXES
  )
  for b, prompt in enumerate(PROMPT.tolist()):
    want = [log_p(prompt, y) for y in beams.tokens[b, :, :1].tolist()]
    np.testing.assert_allclose(alone[b], want, rtol=1e-5)


def test_rescoring_ranks_by_the_mean_of_both_scores():
  beams = search(beam_size=4, num_tokens=5, stop_token=STOP)
  theirs = jnp.broadcast_to(jnp.array([-9.0, -1.0, -5.0, -3.0]), (3, 4))
  options = dict(stop_token=STOP, state_axes=AXES)
  got = beam_search.rescore(
    bigram, TABLE, PROMPT, start(), beams._replace(scores=theirs), **options
  )
  mean = (theirs + beams.scores) / 2
  order = np.argsort(-mean, axis=1)
  np.testing.assert_allclose(
    got.scores, np.take_along_axis(np.asarray(mean), order, 1), rtol=1e-5
  )
  for name in ("tokens", "lengths"):
    want = np.stack([x[o] for x, o in zip(np.asarray(getattr(beams, name)), order)])
    np.testing.assert_array_equal(getattr(got, name), want)


@pytest.mark.slow
def test_the_states_of_a_language_model_follow_their_beams():
  config = models.BackboneConfig(
    16, 2, ("lstm", "attention"), num_heads=2, max_length=12, dtype=jnp.float32
  )
  model = models.LanguageModel(config, vocab_size=7)
  prompt = jnp.array([[1, 3], [2, 1]])
  params = jax.jit(model.init)(jax.random.key(0), prompt)
  params = jax.tree.map(lambda p: 2 * p, params)
  args = model.apply, params, prompt, model.initial_state(2)
  beams = beam_search.beam_search(*args, beam_size=4, num_tokens=6)
  got = beam_search.log_probabilities(*args, beams.tokens)
  np.testing.assert_allclose(got, beams.scores, rtol=1e-5)


@pytest.mark.parametrize(
  "options", [dict(beam_size=0), dict(num_tokens=0), dict(length_penalty=-1.0)]
)
def test_options_out_of_range_are_refused(options):
  with pytest.raises(ValueError, match="length_penalty >= 0; got"):
    search(**dict(beam_size=2, num_tokens=3) | options)
