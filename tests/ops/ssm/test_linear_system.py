import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseq import ops, testing

BUDGET = 5e-6  # Of float32 against float64, as a share of the largest value.
linear_system = jax.jit(ops.linear_system, static_argnames="implementation")
D, M, N = 3, 2, 4


def case(kind, T, seed=0):
  """Systems whose transitions have moduli up to 1, one of them 0."""
  rng = np.random.default_rng(seed)
  modulus = rng.uniform(0.7, 1, (D, N))
  modulus[0, :2] = 0, 1
  turned = lambda *shape: rng.normal(size=shape) + 1j * rng.normal(size=shape)
  if kind == "diagonal":
    A = modulus * np.exp(1j * rng.uniform(0, np.pi, (D, N)))
    B, C, state = turned(D, N), turned(D, M, N), turned(2, D, N)
  else:
    Q, _ = np.linalg.qr(rng.normal(size=(D, N, N)))
    A = np.einsum("dij,dj,dkj->dik", Q, modulus, Q)
    B, C, state = (rng.normal(size=s) for s in ((D, N), (D, M, N), (2, D, N)))
  ids = np.sort(rng.integers(1, 4, (2, T)), axis=1)
  ids[0, : T // 4], ids[1, T - T // 5 :] = 0, 0
  ids[1, ids[1] == 2] = 0  # Padding between documents.
  return rng.normal(size=(2, T, D)), A, B, C, state, ids


def loop(x, A, B, C, state, ids):
  """The recurrence in numpy, float64."""
  y, h = np.zeros((*x.shape, M)), state.copy()
  document = [None] * len(x)
  for b in range(len(x)):
    for t in range(x.shape[1]):
      if ids is not None and ids[b, t] == 0:
        continue
      if ids is not None and document[b] not in (None, ids[b, t]):
        h[b] = 0
      document[b] = None if ids is None else ids[b, t]
      moved = A * h[b] if A.ndim == 2 else np.einsum("dij,dj->di", A, h[b])
      h[b] = moved + B * x[b, t][:, None]
      y[b, t] = np.einsum("dmn,dn->dm", C, h[b]).real
  return y, h


def low(arrays):
  return [z.astype("complex64" if z.dtype == complex else "float32") for z in arrays]


def error(got, want):
  return np.abs(np.asarray(got) - want).max() / np.abs(want).max()


def run(form, state=None, ids=None, **options):
  ids = None if ids is None else jnp.asarray(ids)
  return jax.jit(
    lambda x, A, B, C: linear_system(
      *(x, A, B, C),
      initial_state=state,
      segment_ids=ids,
      implementation=form,
      **options,
    )
  )


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("T", [1, 9, 75])
@pytest.mark.parametrize("kind", ["diagonal", "dense"])
def test_every_form_is_the_loop(kind, T, packed):
  *arrays, state, ids = case(kind, T)
  ids = ids if packed else None
  want = loop(*arrays, state, ids)
  for form in ("recurrent", "chunked"):
    got = run(form, jnp.asarray(low([state])[0]), ids)(*low(arrays))
    assert max(map(error, got, want)) < BUDGET, form
  if not packed:
    want = loop(*arrays, 0 * state, None)
    assert max(map(error, run("convolution")(*low(arrays)), want)) < BUDGET


@pytest.mark.parametrize(
  "kind, form",
  [("diagonal", "chunked"), ("dense", "chunked"), ("dense", "convolution")],
)
def test_gradients_are_those_of_the_definition_in_float64(kind, form):
  *arrays, state, ids = case(kind, 45)
  empty = form == "convolution"

  def gradients(form):
    def loss(x, A, B, C, state):
      options = () if empty else (state, ids)
      y, last = run(form, *options)(x, A, B, C)
      return jnp.sum(jnp.sin(y)) + jnp.sum(last.real)

    return jax.jit(jax.grad(loss, argnums=range(4 if empty else 5)))

  with jax.enable_x64():
    args = [jnp.asarray(z) for z in (*arrays, state)]
    want = gradients("recurrent")(*args)
    got = gradients(form)(*args)
    assert max(map(error, got, [np.asarray(g) for g in want])) < 1e-11


def test_a_kernel_that_is_given_is_used():
  x, A, B, C, _, _ = low(case("dense", 11))
  y, last = run("convolution")(x, A, B, C)
  for form in ("convolution", "chunked"):
    got, same = run(form, kernel=jnp.zeros((11, D, M)))(x, A, B, C)
    testing.assert_close((got, same), (0 * y, last))
  with pytest.raises(ValueError, match="kernel of T = 11 taps; got 10"):
    linear_system(x, A, B, C, kernel=jnp.zeros((10, D, M)))


@settings(max_examples=4, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(0, 40), st.sampled_from(["diagonal", "dense"]))
def test_any_split_gives_the_whole(T, cut, kind):
  cut = min(cut, T - 1)
  *arrays, state, _ = case(kind, T, seed=T)
  (x, *system), state = low(arrays), jnp.asarray(low([state])[0])
  whole, last = linear_system(
    x, *system, initial_state=state, implementation="recurrent"
  )
  head, state = linear_system(
    x[:, :cut], *system, initial_state=state, implementation="recurrent"
  )
  tail, end = linear_system(
    x[:, cut:], *system, initial_state=state, implementation="chunked"
  )
  testing.assert_close((jnp.concatenate([head, tail], 1), end), (whole, last))


def test_what_a_form_cannot_take_it_says():
  x, A, B, C, state, ids = case("diagonal", 9)
  args = low((x, A, B, C))
  with pytest.raises(NotImplementedError, match="empty state"):
    run("convolution", jnp.asarray(state))(*args)
  with pytest.raises(NotImplementedError, match="packed documents"):
    run("convolution", None, ids)(*args)


def test_wrong_shapes_are_named():
  x, A, B, C, _, _ = low(case("dense", 9))
  with pytest.raises(ValueError, match="linear_system needs B .* with N = 4"):
    linear_system(x, A, B[:, :3], C)
