import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseq import ops, testing
from jaxseq.ops.ssm import diagonal_recurrence as module

# Those for a factor of each token's own. The kernel has its own tests.
FORMS = sorted(set(module.IMPLEMENTATIONS) - {"pallas_tpu", "recurrent", "convolution"})
BUDGET = 3e-6  # Of float32 against float64, as a share of the largest value.
diagonal_recurrence = jax.jit(
  ops.diagonal_recurrence, static_argnames=("implementation", "reverse")
)


def factors(kind, shape, rng):
  """Real in [-1, 1], some 0 and some +-1; or complex of modulus 1 and less."""
  if kind == "complex":
    return rng.uniform(0.9, 1, shape) * np.exp(1j * rng.uniform(0, 2 * np.pi, shape))
  a = rng.uniform(-1, 1, shape)
  return np.where(rng.random(shape) < 0.2, rng.integers(-1, 2, shape), a)


def case(kind, T, packed, seed=0):
  rng = np.random.default_rng(seed)
  a = factors(kind, (2, T, 5), rng)
  x, state = rng.normal(size=(2, T, 5)), rng.normal(size=(2, 5))
  ids = np.sort(rng.integers(1, 4, (2, T)), axis=1)
  ids[0, : T // 4], ids[1, T - T // 5 :] = 0, 0
  return a, x, state, ids if packed else None


def loop(a, x, state, ids):
  """The recurrence in numpy, float64."""
  h, out = state.astype(a.dtype), np.zeros(x.shape, a.dtype)
  document = [None] * len(x)
  h = h.copy()
  for b in range(len(x)):
    for t in range(x.shape[1]):
      if ids is not None and ids[b, t] == 0:
        continue
      if ids is not None and document[b] not in (None, ids[b, t]):
        h[b] = 0
      document[b] = None if ids is None else ids[b, t]
      h[b] = a[b, t] * h[b] + x[b, t]
      out[b, t] = h[b]
  return out, h


def error(got, want):
  return np.abs(np.asarray(got) - want).max() / np.abs(want).max()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("T", [1, 67, 300])
@pytest.mark.parametrize("kind", ["real", "complex"])
def test_every_form_is_the_loop(kind, T, packed):
  a, x, state, ids = case(kind, T, packed)
  want = loop(a, x, state, ids)
  low = [y.astype("complex64" if y.dtype == complex else "float32") for y in (a, x)]
  for form in ("recurrent", *FORMS):
    got = diagonal_recurrence(
      *low,
      initial_state=jnp.asarray(state),
      segment_ids=None if ids is None else jnp.asarray(ids),
      implementation=form,
    )
    assert max(map(error, got, want)) < BUDGET, form


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["real", "complex"])
def test_gradients_are_those_of_the_definition_in_float64(kind, form):
  a, x, state, ids = case(kind, 67, packed=True)

  def gradients(form):
    def loss(a, x, state):
      h, last = diagonal_recurrence(
        a,
        x,
        initial_state=state,
        segment_ids=jnp.asarray(ids),
        implementation=form,
      )
      return jnp.sum(jnp.sin(h.real) + h.imag**2) + jnp.sum(last.real)

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))

  with jax.enable_x64():
    args = jnp.asarray(a), jnp.asarray(x), jnp.asarray(state)
    want = [np.asarray(g) for g in gradients("recurrent")(*args)]
    got = gradients(form)(*args)
    assert max(map(error, got, want)) < 1e-12
  low = [y.astype("complex64" if y.dtype == complex else "float32") for y in (a, x)]
  got = gradients(form)(*low, state.astype("float32"))
  assert max(map(error, got, want)) < BUDGET


def test_a_factor_of_modulus_one_keeps_its_length_over_many_tokens():
  a = jnp.exp(1j * jnp.linspace(0.1, 3, 4))
  x = jnp.zeros((1, 20_000, 4))
  state = jnp.ones((1, 4))
  for form in (*FORMS, "convolution"):
    _, last = diagonal_recurrence(a, x, initial_state=state, implementation=form)
    np.testing.assert_allclose(np.abs(last), 1, atol=2e-3)


def test_one_factor_for_all_tokens_is_the_same_factor_at_each():
  a, x, state, packed = case("complex", 40, True)
  for form in ("recurrent", *FORMS):
    for ids in (None, jnp.asarray(packed)):
      run = lambda a, ids=ids, form=form: diagonal_recurrence(
        a,
        jnp.asarray(x),
        initial_state=jnp.asarray(state),
        segment_ids=ids,
        implementation=form,
      )
      one = jnp.asarray(a[0, 0])
      testing.assert_close(run(one), run(jnp.broadcast_to(one, x.shape)))


@pytest.mark.parametrize("T", [1, 2, 67])
@pytest.mark.parametrize("kind", ["real", "complex"])
def test_the_convolution_is_the_loop(kind, T):
  a, x, state, _ = case(kind, T, False)
  a = a[0, 0]
  if kind == "real":
    a[:4] = 0, 1, -1, -0.3
  low = [y.astype("complex64" if y.dtype == complex else "float32") for y in (a, x)]
  low.append(state.astype("float32"))
  a, x, state = (y.astype(z.dtype) for y, z in zip(low, (a, x, state)))

  def run(form):
    def loss(a, x, state):
      h, last = diagonal_recurrence(a, x, initial_state=state, implementation=form)
      total = jnp.sum(jnp.sin(h.real) + h.imag**2) + jnp.sum(last.real)
      return total, (h, last)

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))

  want = loop(np.broadcast_to(a, x.shape), x, state, None)
  grads, got = run("convolution")(*low)
  assert max(map(error, got, want)) < BUDGET
  with jax.enable_x64():
    args = jnp.asarray(a), jnp.asarray(x), jnp.asarray(state)
    want_grads, _ = run("recurrent")(*args)
    same_grads, _ = run("convolution")(*args)
    want_grads, same_grads = jax.tree.map(np.asarray, (want_grads, same_grads))
  assert max(map(error, same_grads, want_grads)) < 1e-12
  assert max(map(error, grads, want_grads)) < BUDGET


def test_the_convolution_says_what_it_cannot_take():
  a, x, _, packed = case("real", 9, True)
  for factor, ids in ((a, None), (a[0, 0], jnp.asarray(packed))):
    with pytest.raises(NotImplementedError, match="one factor for all tokens.*packed"):
      diagonal_recurrence(
        factor, jnp.asarray(x), segment_ids=ids, implementation="convolution"
      )


@pytest.mark.parametrize("packed", [False, True])
def test_the_reverse_is_the_loop_over_reversed_rows(packed):
  a, x, state, ids = case("complex", 23, packed)
  back = lambda y: None if y is None else y[:, ::-1]
  want, end = loop(back(a), back(x), state, back(ids))
  for form in ("recurrent", *FORMS):
    got = diagonal_recurrence(
      a.astype("complex64"),
      x.astype("float32"),
      initial_state=jnp.asarray(state),
      segment_ids=None if ids is None else jnp.asarray(ids),
      reverse=True,
      implementation=form,
    )
    assert max(map(error, got, (back(want), end))) < BUDGET, form


def test_a_state_may_be_a_tensor_with_a_factor_shared_by_some_of_its_axes():
  rng = np.random.default_rng(0)
  x, packed = rng.normal(size=(2, 11, 3, 2, 5)), case("real", 11, True)[3]
  state = rng.normal(size=(2, 3, 2, 5))
  by_token = factors("real", (2, 11, 1, 1, 5), rng)
  flat = lambda y: y.reshape(*y.shape[: y.ndim - 3], -1)
  for a, ids, forms in (
    (by_token, packed, ("chunked", "recurrent")),
    (by_token[0, 0], packed, ("chunked", "recurrent")),
    (by_token[0, 0], None, ("chunked", "recurrent", "convolution")),
  ):
    whole = np.broadcast_to(a, x.shape).reshape(2, 11, 30)
    want, end = loop(whole, flat(x), flat(state), ids)
    for form in forms:
      h, last = diagonal_recurrence(
        a.astype("float32"),
        x.astype("float32"),
        initial_state=jnp.asarray(state),
        segment_ids=None if ids is None else jnp.asarray(ids),
        implementation=form,
      )
      assert h.shape == x.shape and last.shape == state.shape
      assert max(map(error, (flat(h), flat(last)), (want, end))) < BUDGET, form


def test_a_complex_state_stays_complex_where_all_else_is_real():
  a, x, state, _ = case("real", 9, False)
  state = state * np.exp(1j)
  want = loop(a.astype(complex), x, state, None)
  for form in ("recurrent", *FORMS):
    got = diagonal_recurrence(
      jnp.asarray(a, jnp.float32),
      jnp.asarray(x, jnp.float32),
      initial_state=jnp.asarray(state),
      implementation=form,
    )
    assert max(map(error, got, want)) < BUDGET, form


def test_bfloat16_inputs_are_summed_in_float32():
  a, x, _, _ = case("real", 67, False)
  a, x = (jnp.asarray(y, jnp.bfloat16) for y in (a, x))
  wide = (np.asarray(y, np.float64) for y in (a, x))
  want, end = loop(*wide, np.zeros((2, 5)), None)
  h, last = diagonal_recurrence(a, x)
  assert (h.dtype, last.dtype) == (jnp.bfloat16, jnp.float32)
  assert error(last, end) < BUDGET
  assert error(h.astype(jnp.float32), want) < 2**-8  # One rounding.


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(0, 40), st.sampled_from(FORMS))
def test_any_split_gives_the_whole(T, cut, form):
  cut = min(cut, T - 1)
  a, x, state, _ = case("real", T, False, seed=T)
  a, x, state = (jnp.asarray(y, jnp.float32) for y in (a, x, state))
  run = lambda *args, h: diagonal_recurrence(
    *args, initial_state=h, implementation=form
  )
  whole, last = run(a, x, h=state)
  if cut:
    head, state = run(a[:, :cut], x[:, :cut], h=state)
    testing.assert_close(head, whole[:, :cut])
  tail, end = run(a[:, cut:], x[:, cut:], h=state)
  testing.assert_close((tail, end), (whole[:, cut:], last))


def test_wrong_shapes_are_named():
  with pytest.raises(ValueError, match="diagonal_recurrence needs a .* got shape"):
    diagonal_recurrence(jnp.ones((2, 5, 3)), jnp.ones((2, 6, 3)))
  with pytest.raises(ValueError, match="needs initial_state .* got shape"):
    diagonal_recurrence(jnp.ones(3), jnp.ones((2, 6, 3)), initial_state=jnp.ones(3))
  with pytest.raises(ValueError, match="'auto' or one of"):
    diagonal_recurrence(jnp.ones(3), jnp.ones((2, 6, 3)), implementation="fast")
