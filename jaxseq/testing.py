"""What every mixer promises, as checks that anyone can run on their own.

    jaxseq.testing.check_mixer(MyMixer(features=32, dtype=jnp.float32))

Each check takes a mixer whose dtype is float32 and raises AssertionError where the
promise is broken. The tests run all of them over the registry.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxseq.modules.mixer import Mixer

__all__ = [
  "CHECKS",
  "OF_DOCUMENTS",
  "OF_STATES",
  "assert_close",
  "check_mixer",
  "example",
  "tolerance",
]

LENGTH = 21  # Tokens: odd, and a multiple of no chunk.


def tolerance(dtype: DTypeLike) -> float:
  """Largest error allowed, as a share of the largest value, for results in `dtype`."""
  name = jnp.dtype(dtype).name
  return {"float64": 1e-9, "float32": 1e-4, "bfloat16": 4e-2, "float16": 1e-2}[name]


def assert_close(got, want, dtype: DTypeLike | None = None, message: str = ""):
  """Compares two trees, leaf by leaf, relative to the largest value of each leaf.

  Args:
    got: Arrays to check.
    want: Arrays to compare with.
    dtype: Whose `tolerance` holds. That of each leaf of `got` if None.
    message: Put before the name of the leaf that differs.
  """
  got_leaves, treedef = jax.tree_util.tree_flatten_with_path(got)
  want_leaves, want_treedef = jax.tree.flatten(want)
  assert treedef == want_treedef, f"{message} {treedef} is not {want_treedef}"
  for (path, a), b in zip(got_leaves, want_leaves):
    kind = jnp.result_type(a)
    if jnp.issubdtype(kind, jnp.complexfloating):
      kind = jnp.finfo(kind).dtype
    wide = np.complex128 if np.iscomplexobj(a) else np.float64
    a, b = np.asarray(a).astype(wide), np.asarray(b).astype(wide)
    if not a.size:
      continue
    bound = np.abs(b).max()
    limit = tolerance(dtype or kind) if kind.kind == "f" or kind == jnp.bfloat16 else 0
    name = f"{message}{jax.tree_util.keystr(path)}"
    assert np.isfinite(a).all(), f"{name} is not finite"
    error = np.abs(a - b).max()
    assert error <= limit * max(bound, 1e-3), (
      f"{name} differs by {error:.3g}, where the largest value is {bound:.3g}"
    )


@functools.partial(jax.jit, static_argnums=0)
def _apply(mixer, params, x, state=None, segment_ids=None):
  return mixer.apply(params, x, state, segment_ids=segment_ids)


def _objective(mixer, params, x, state, segment_ids, cotangents):
  """A linear functional of the outputs and the final state; and these."""
  out = mixer.apply(params, x, state, segment_ids=segment_ids)
  return _sum_of_products(out, cotangents), out


def _sum_of_products(out, cotangents):
  products = jax.tree.map(lambda a, b: jnp.sum((a * b).real), out, cotangents)
  return jax.tree.reduce(jnp.add, products)


@functools.partial(jax.jit, static_argnums=0)
def _gradients(mixer, params, x, state, segment_ids, cotangents):
  """Of `_objective`, by params, x and state; and its outputs, from the same program."""
  grad = jax.grad(_objective, argnums=(1, 2, 3), has_aux=True, allow_int=True)
  grads, out = grad(mixer, params, x, state, segment_ids, cotangents)
  none = lambda g: g.dtype == jax.dtypes.float0  # That of a counter.
  return jax.tree.map(lambda g: jnp.zeros(g.shape) if none(g) else g, grads), out


def _outputs(mixer, params, x, state=None, segment_ids=None):
  """`_apply` of `LENGTH` tokens by `_gradients`, which is compiled for them anyway."""
  return _gradients(mixer, params, x, state, segment_ids, _cotangents(mixer))[1]


@functools.lru_cache(maxsize=64)
def _cotangents(mixer):
  """Random ones for the outputs and the final state of `example`."""
  return _random_like(3, jax.eval_shape(mixer.apply, *example(mixer)))


def _empty(mixer):
  """The state before the first token. None if the mixer has no states."""
  return None if _cotangents(mixer)[1] is None else mixer.initial_state(2)


def _random_like(seed, tree):
  """Normal numbers, zeros for integers; numpy's, for which nothing is compiled."""
  rng = np.random.default_rng(seed)

  def draw(x):
    if not jnp.issubdtype(x.dtype, jnp.inexact):
      return np.zeros(x.shape, np.float32)
    normal = rng.normal(size=x.shape)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
      normal = (normal + 1j * rng.normal(size=x.shape)) / 2**0.5
    return normal.astype(x.dtype)

  return jax.tree.map(draw, tree)


@functools.lru_cache(maxsize=64)
def example(mixer: Mixer, length: int = LENGTH):
  """Parameters and inputs [2, length, features] for a mixer.

  The parameters are the initial ones with noise, so that none is zero or one.
  """
  shape = (2, length, mixer.features)
  x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
  params = jax.jit(mixer.init)(jax.random.key(0), x[:, :2])
  noisy = lambda p, n: jnp.asarray(np.asarray(p) + np.float32(0.1) * n)
  return jax.tree.map(noisy, params, _random_like(2, params)), jnp.asarray(x)


def _split(mixer):
  """A random length, the mixer's own: compiled for it once, used by many checks."""
  return int(np.random.default_rng(len(type(mixer).__name__)).integers(5, 10))


def _packed(mixer):
  """Two documents of `_split` tokens in each row, padding after or around them.

  Returns:
    ids [2, LENGTH], and the rows' tokens of the first and of the second documents.
  """
  t = _split(mixer)
  first = np.arange(t) + np.array([[0], [3]])
  ids = np.zeros((2, LENGTH), np.int32)
  np.put_along_axis(ids, first, np.array([[7], [1]]), axis=1)
  np.put_along_axis(ids, first + t, np.array([[3], [2]]), axis=1)
  return ids, (first, first + t)


def outputs_do_not_depend_on_later_inputs(mixer: Mixer):
  params, x = example(mixer)
  y, _ = _outputs(mixer, params, x)
  t = 13
  z, _ = _outputs(mixer, params, x + np.float32(np.arange(LENGTH) >= t)[:, None])
  y, z = np.asarray(y), np.asarray(z)
  assert_close(z[:, :t], y[:, :t], message="output before the change ")
  assert np.abs(z[:, t:] - y[:, t:]).max() > 1e-4, "no output depends on the input"


def a_split_sequence_gives_what_the_whole_gives(mixer: Mixer):
  params, x = example(mixer)
  y, state = _outputs(mixer, params, x)
  t = _split(mixer)
  x = np.asarray(x)
  head, between = _apply(mixer, params, x[:, :t])
  tail, last = _apply(mixer, params, x[:, t:], between)
  assert_close(np.concatenate([head, tail], 1), y, message=f"split at {t}, output ")
  assert_close(last, state, message=f"split at {t}, state ")


def decoding_from_the_initial_state_gives_what_the_whole_gives(mixer: Mixer):
  params, x = example(mixer)
  y, state = _outputs(mixer, params, x)

  @jax.jit
  def decode(params, x, state):
    def step(state, token):
      out, state = mixer.apply(params, token[:, None], state)
      return state, out[:, 0]

    last, out = jax.lax.scan(step, state, x.swapaxes(0, 1))
    return out.swapaxes(0, 1), last

  got, last = decode(params, x, mixer.initial_state(2))
  assert_close(got, y, message="output ")
  assert_close(last, state, message="state ")


def the_state_keeps_its_shapes(mixer: Mixer):
  params, x = example(mixer)
  kinds = lambda tree: jax.tree.map(lambda a: (a.shape, jnp.dtype(a.dtype)), tree)
  empty = mixer.initial_state(2)
  for length in (1, LENGTH):
    _, state = jax.eval_shape(mixer.apply, params, x[:, :length])
    assert kinds(state) == kinds(empty)
    _, state = jax.eval_shape(mixer.apply, params, x[:, :length], empty)
    assert kinds(state) == kinds(empty)


def packed_documents_are_separate_documents(mixer: Mixer):
  params, x = example(mixer)
  ids, documents = _packed(mixer)
  y, state = _outputs(mixer, params, x, _empty(mixer), ids)
  pick = lambda a, tokens: np.take_along_axis(np.asarray(a), tokens[..., None], 1)
  for tokens in documents:
    want, last = _apply(mixer, params, pick(x, tokens))
    assert_close(pick(y, tokens), want, message="output ")
  assert_close(state, last, message="state ")


def padding_is_ignored_whatever_it_holds(mixer: Mixer):
  params, x = example(mixer)
  ids, _ = _packed(mixer)
  _, before = _outputs(mixer, params, x)
  garbage = np.where(ids[..., None] == 0, np.float32(np.nan), x)
  cotangents = _cotangents(mixer)
  grads, (y, state) = _gradients(mixer, params, x, before, ids, cotangents)
  assert not np.asarray(y)[ids == 0].any(), "outputs at padding are not zero"
  got_grads, (got, last) = _gradients(mixer, params, garbage, before, ids, cotangents)
  assert_close(got, y, message="output ")
  assert_close(last, state, message="state ")
  assert_close(got_grads, grads, message="gradient ")


def padding_before_and_after_leaves_the_state(mixer: Mixer):
  params, x = example(mixer)
  _, state = _outputs(mixer, params, x)
  ids = np.zeros((2, LENGTH), np.int32)
  y, same = _outputs(mixer, params, x, state, ids)
  assert_close(same, state, message="state after padding alone ")
  assert not np.asarray(y).any()
  span = slice(3, 3 + LENGTH - _split(mixer))
  ids[:, span] = 4  # Continues the document that the state comes from.
  y, last = _outputs(mixer, params, x, state, ids)
  want, want_last = _apply(mixer, params, np.asarray(x)[:, span], state)
  assert_close(np.asarray(y)[:, span], want, message="output ")
  assert_close(last, want_last, message="state ")


def gradients_pass_through_a_split(mixer: Mixer):
  params, x = example(mixer)
  y_bar, state_bar = _cotangents(mixer)
  (*whole, _), _ = _gradients(mixer, params, x, None, None, (y_bar, state_bar))
  # The rest of the row is padding, so that both parts are of one length.
  head = np.tile(np.int32(np.arange(LENGTH) < _split(mixer)), (2, 1))
  run = lambda *args: _gradients(mixer, params, x, *args)
  _, (_, between) = run(_empty(mixer), head, (y_bar, state_bar))
  tail_bars, _ = run(between, 1 - head, (y_bar, state_bar))
  head_bars, _ = run(_empty(mixer), head, (y_bar, tail_bars[2]))
  add = lambda a, b: np.asarray(a) + np.asarray(b)
  assert_close(jax.tree.map(add, tail_bars[:2], head_bars[:2]), tuple(whole))


def bfloat16_is_near_float32(mixer: Mixer):
  params, x = example(mixer)
  y, _ = _outputs(mixer, params, x)
  low = dataclasses.replace(mixer, dtype=jnp.bfloat16)
  z, _ = _apply(low, params, x)
  assert z.dtype == x.dtype
  error = np.linalg.norm(np.asarray(z) - y) / np.linalg.norm(y)
  assert error < tolerance(jnp.bfloat16), f"relative error {error:.3g}"
  out, _ = jax.eval_shape(low.apply, params, x.astype(jnp.bfloat16))
  assert out.dtype == jnp.bfloat16, "the output has not the input's dtype"


def vmap_and_remat_change_nothing(mixer: Mixer):
  params, x = example(mixer)
  cotangents = _cotangents(mixer)
  objective = jax.checkpoint(
    lambda params, x, c: _objective(mixer, params, x, None, None, c)
  )
  step = jax.vmap(jax.grad(objective, (0, 1), has_aux=True), in_axes=(None, 0, 0))
  rows = lambda tree: jax.tree.map(lambda a: np.asarray(a)[:, None], tree)
  (d_params, d_x), got = jax.jit(step)(params, *rows((x, cotangents)))
  (*want, _), out = _gradients(mixer, params, x, None, None, cotangents)
  assert_close(got, rows(out))
  d_params = jax.tree.map(lambda g: np.asarray(g).sum(axis=0), d_params)
  assert_close([d_params, np.asarray(d_x)[:, 0]], want)


def parameters_are_float32_and_name_their_axes(mixer: Mixer):
  shapes = jax.eval_shape(mixer.init, jax.random.key(0), example(mixer)[1])
  axes = nn.get_partition_spec(shapes)
  for (path, leaf), names in zip(
    jax.tree_util.tree_flatten_with_path(nn.unbox(shapes))[0],
    jax.tree.leaves(axes, is_leaf=lambda s: isinstance(s, jax.sharding.PartitionSpec)),
  ):
    name = jax.tree_util.keystr(path)
    assert leaf.dtype == jnp.float32, f"{name} is {leaf.dtype}"
    assert len(names) == leaf.ndim, f"{name} {leaf.shape} has axes {names}"


CHECKS = {
  check.__name__: check
  for check in (
    outputs_do_not_depend_on_later_inputs,
    a_split_sequence_gives_what_the_whole_gives,
    decoding_from_the_initial_state_gives_what_the_whole_gives,
    the_state_keeps_its_shapes,
    packed_documents_are_separate_documents,
    padding_is_ignored_whatever_it_holds,
    padding_before_and_after_leaves_the_state,
    gradients_pass_through_a_split,
    bfloat16_is_near_float32,
    vmap_and_remat_change_nothing,
    parameters_are_float32_and_name_their_axes,
  )
}


# Checks of what a mixer without a state, or one that cannot pack, does not promise.
OF_STATES = frozenset(
  check.__name__
  for check in (
    a_split_sequence_gives_what_the_whole_gives,
    decoding_from_the_initial_state_gives_what_the_whole_gives,
    the_state_keeps_its_shapes,
    padding_before_and_after_leaves_the_state,
    gradients_pass_through_a_split,
  )
)
OF_DOCUMENTS = frozenset(
  check.__name__
  for check in (
    packed_documents_are_separate_documents,
    padding_is_ignored_whatever_it_holds,
    padding_before_and_after_leaves_the_state,
    gradients_pass_through_a_split,
  )
)


def check_mixer(mixer: Mixer):
  """Runs every check on a causal mixer that packs documents.

  Raises:
    AssertionError: At the first promise that is broken.
  """
  for check in CHECKS.values():
    check(mixer)
