import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseq import ops, testing
from jaxseq.ops import kv_cache
from jaxseq.ops.softmax import relative_attention as module

FORMS = sorted(module.IMPLEMENTATIONS)
B, T, H, K, V = 2, 21, 2, 6, 5
BUDGET = 2e-6  # Of float32 against float64, as a share of the largest output.

# Ids that come back later, padding before, between and after, a row of padding alone.
IDS = np.zeros((B, T), np.int32)
IDS[0, 2:9], IDS[0, 9:12], IDS[0, 14:19] = 3, 1, 3

CASES = {
  "causal": dict(),
  "laplace": dict(activation="laplace"),
  "relu2": dict(activation="relu2"),
  "both_ways": dict(causal=False),
  "chunks": dict(chunk_size=4),
  "packed": dict(segment_ids=IDS, activation="laplace"),
  "packed_chunks": dict(segment_ids=IDS, chunk_size=3, activation="relu2"),
  "packed_both_ways": dict(
    segment_ids=IDS, chunk_size=4, causal=False, activation="laplace"
  ),
}

attention = jax.jit(
  ops.relative_attention,
  static_argnames=("activation", "causal", "chunk_size", "scale", "implementation"),
)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
  monkeypatch.setattr(module, "BLOCK_SIZE", 8)


def inputs(causal=True, length=T):
  rng = np.random.default_rng(0)
  shapes = [(B, length, H, K)] * 2 + [(B, length, H, V)]
  shapes += [(H, length if causal else 2 * length - 1)]
  return [rng.normal(size=s) for s in shapes]


def definition(
  q, k, v, bias, activation="softmax", causal=True, chunk_size=None, segment_ids=None
):
  """Token by token in numpy float64; no code in common with the op."""
  o = np.zeros(v.shape)
  middle = 0 if causal else bias.shape[1] // 2
  for b, t, h in np.ndindex(q.shape[:3]):
    ids = np.ones(T) if segment_ids is None else segment_ids[b]
    if ids[t] == 0:
      continue
    first = t
    while first > 0 and ids[first - 1] == ids[t]:
      first -= 1
    end = first
    while end < T and ids[end] == ids[t]:
      end += 1
    if chunk_size is not None:
      first += (t - first) // chunk_size * chunk_size
      end = min(end, first + chunk_size)
    seen = np.arange(first, t + 1 if causal else end)
    scores = k[b, seen, h] @ q[b, t, h]
    bias_seen = bias[h, t - seen + middle]
    if activation == "softmax":
      weights = np.exp(scores / math.sqrt(K) + bias_seen)
      weights /= weights.sum()
    else:
      x = scores / len(seen) + bias_seen
      weights = np.maximum(x, 0) ** 2
      if activation == "laplace":
        sigma = math.sqrt(1 / (4 * math.pi))
        z = (x - math.sqrt(0.5)) / (sigma * math.sqrt(2))
        weights = np.array([0.5 * (1 + math.erf(y)) for y in z])
    o[b, t, h] = weights @ v[b, seen, h]
  return o


def low(arrays):
  return [jnp.asarray(x, jnp.float32) for x in arrays]


@pytest.mark.parametrize("case", CASES)
def test_every_form_is_the_loop(case):
  options = CASES[case]
  arrays = inputs(options.get("causal", True))
  want = definition(*arrays, **options)
  for form in FORMS:
    o, state = attention(*low(arrays), **options, implementation=form)
    assert state is None
    assert np.abs(o - want).max() < BUDGET * np.abs(want).max(), form


@pytest.mark.parametrize("case", ["laplace", "packed_chunks", "packed_both_ways"])
def test_gradients_are_those_of_the_definition_in_float64(case):
  options = CASES[case]
  arrays = inputs(options.get("causal", True))

  def gradients(form, *args):
    def loss(*args):
      return jnp.sum(jnp.sin(attention(*args, **options, implementation=form)[0]))

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(*args)

  with jax.enable_x64():
    want = gradients("recurrent", *map(jnp.asarray, arrays))
    for form in ("parallel", "blockwise"):
      testing.assert_close(gradients(form, *map(jnp.asarray, arrays)), want)
  want = tuple(np.asarray(g) for g in want)
  testing.assert_close(gradients("blockwise", *low(arrays)), want)


@settings(max_examples=3, deadline=None, derandomize=True)
@given(st.integers(1, T - 1), st.sampled_from([None, 4]), st.sampled_from(FORMS[:2]))
def test_any_split_gives_the_whole(cut, chunk_size, form):
  *arrays, bias = low(inputs())
  options = dict(chunk_size=chunk_size, activation="laplace", implementation=form)
  state = kv_cache.empty(B, chunk_size or T, H, K, V, jnp.float32)
  whole, last = attention(*arrays, bias, **options, initial_state=state)
  head, state = attention(
    *(x[:, :cut] for x in arrays), bias, **options, initial_state=state
  )
  tail, end = attention(
    *(x[:, cut:] for x in arrays), bias, **options, initial_state=state
  )
  testing.assert_close(np.concatenate([head, tail], axis=1), whole)
  testing.assert_close(end, last)
  stateless, _ = attention(*arrays, bias, **options)
  testing.assert_close(whole, stateless)


def test_without_a_bias_it_is_softmax_attention():
  *arrays, bias = low(inputs())
  o, _ = attention(*arrays, 0 * bias, segment_ids=IDS)
  want, _ = jax.jit(ops.softmax_attention)(*arrays, segment_ids=IDS)
  testing.assert_close(o, want)


def test_past_the_state_there_is_no_number():
  *arrays, bias = low(inputs(length=6))
  state = kv_cache.empty(B, 4, H, K, V, jnp.float32)
  o, _ = attention(*arrays, bias, initial_state=state)
  assert np.isfinite(o[:, :4]).all() and np.isnan(o[:, 4:]).all()


def test_wrong_arguments_are_named():
  q, k, v, bias = low(inputs(length=5))
  state = kv_cache.empty(B, 3, H, K, V, jnp.float32)
  for message, change in (
    ("activation in", dict(activation="erf")),
    ("L >= 5; got 4", dict(bias=bias[:, :4])),
    ("odd L >= 9; got 5", dict(causal=False)),
    ("causal to continue", dict(causal=False, initial_state=state)),
    ("at least chunk_size = 4", dict(chunk_size=4, initial_state=state)),
    ("chunk_size >= 1", dict(chunk_size=0)),
    ("v .B, T, H, V.", dict(v=v[:, :2])),
  ):
    with pytest.raises(ValueError, match=f"relative_attention needs .*{message}"):
      ops.relative_attention(**(dict(q=q, k=k, v=v, bias=bias) | change))
