"""What the packages of matrix-state recurrences share around their kernels."""

import jax
import jax.numpy as jnp

__all__ = [
  "CHUNK",
  "LOWEST",
  "between",
  "by_token",
  "count_pieces",
  "documents",
  "given",
  "in_chunks",
  "not_zero",
  "pad",
  "refusal",
  "up",
]

CHUNK = 64  # Tokens.
WIDTH = 256  # The largest K and V: a state is [64, K] in a warpgroup's registers.
# Of q, k and v.
DTYPES = {"gpu": ("bfloat16",), "tpu": ("bfloat16", "float32")}
PROGRAMS = 2 * 132  # That a Hopper GPU runs at a time.
LOWEST = -150.0  # The binary logarithm of nothing, in float32.


def by_token(update, q, k, v, gates, state, starts, valid, *, scale):
  """The recurrence S_t = update(S_{t-1}, k_t, v_t, *gates_t), o_t = scale S_t^T q_t.

  In the dtype of the state: the oracle of the kernels' tests.

  Args:
    update: Of one token.
    q: [B, T, H, K].
    k: [B, T, H, K].
    v: [B, T, H, V].
    gates: [B, T, H] or [B, T, H, K] each.
    state: [B, H, K, V], before the first token.
    starts: [B, T] bool, where the state is dropped first.
    valid: [B, T] bool; other tokens read 0 and leave the state as it is.
    scale: Of the queries.

  Returns:
    o [B, T, H, V] and the last state.
  """

  def step(S, token):
    (q, k, v, *gates), start, valid = token
    valid = valid[:, None, None]
    S = jnp.where(start[:, None, None, None], 0, S)
    S = jnp.where(valid[..., None], update(S, k, v, *gates), S)
    o = scale * jnp.einsum("bhk,bhkv->bhv", q, S, precision="highest")
    return S, jnp.where(valid, o, 0)

  arrays = [x.astype(state.dtype) for x in (q, k, v, *gates)]
  by_time = jax.tree.map(lambda x: x.swapaxes(0, 1), (arrays, starts, valid))
  S, o = jax.lax.scan(step, state, by_time)
  return o.swapaxes(0, 1), S


def refusal(q, k, v, scale, backend) -> str | None:
  """Why no kernel takes these, or None."""
  for name, x in dict(q=q, k=k, v=v).items():
    if str(x.dtype) not in DTYPES[backend] or x.dtype != v.dtype:
      return f"it needs {' or '.join(DTYPES[backend])}, not {x.dtype} {name}"
    if x.shape[-1] > WIDTH:
      return f"it needs heads of at most {WIDTH}, not {x.shape[-1]} of {name}"
  if isinstance(scale, jax.Array) or not scale > 0:
    return f"it needs a scale that is a positive number, not {scale}"
  return None


def count_pieces(programs: int, chunks: int) -> int:
  """Into how many a sequence is cut, so that the programs fill the device.

  Args:
    programs: That one piece of every sequence makes.
    chunks: Of a sequence; a piece has four at least.
  """
  return max(1, min(PROGRAMS // programs, chunks // 4))


def up(size: int, multiple: int) -> int:
  """The next multiple."""
  return -(-size // multiple) * multiple


def pad(x, *sizes: int):
  """Zeros at the end of each axis, up to these sizes."""
  return jnp.pad(x, [(0, size - n) for n, size in zip(x.shape, sizes, strict=True)])


def in_chunks(x):
  """Numbers of tokens and heads, [B, T, H], as [B, H, N, CHUNK]; zeros at the end."""
  B, T, H = x.shape
  x = pad(x, B, up(T, CHUNK), H)
  return x.swapaxes(1, 2).reshape(B, H, -1, CHUNK)


def documents(starts, B: int, T: int):
  """How many have started in a chunk up to and with a token, [B, N, 2, CHUNK] float32.

  Twice, as no buffer of a kernel can be read in two layouts of registers.

  Args:
    starts: [B, T] bool, or None for nowhere.
    B: Of the batch.
    T: Tokens.
  """
  starts = jnp.zeros((B, T), bool) if starts is None else starts
  starts = pad(starts, B, up(T, CHUNK)).reshape(B, -1, 1, CHUNK)
  count = jnp.cumsum(starts, -1, jnp.float32)
  return jnp.broadcast_to(count, (B, count.shape[1], 2, CHUNK))


def not_zero(beta):
  """Of such a beta, what is multiplied by it can be divided by it again."""
  return jnp.where(jnp.abs(beta) < 1e-20, 1e-20, beta)


def between(first, left, M, *, reverse=False):
  """The states before each piece, [B P, H, V', K'], in the order of time.

  Args:
    first: [B, H, V', K'] before the first piece, or None for zeros.
    left: [B, P, H, V', K'] after each piece from an empty state.
    M: [B, P, H, K', K'], transposed as the states are.
    reverse: The last piece is the first, and M transposed once more.
  """
  pieces = M.shape[1]
  states = [jnp.zeros_like(left[:, 0]) if first is None else first]
  for piece in range(1, pieces):
    n = pieces - piece if reverse else piece - 1
    passed = M[:, n].swapaxes(-1, -2) if reverse else M[:, n]
    states.append(jnp.matmul(states[-1], passed, precision="highest") + left[:, n])
  states = jnp.stack(states[::-1] if reverse else states, axis=1)
  return states.reshape(-1, *states.shape[2:])


def given(gradient):
  """A gradient, or None if nothing depends on what it would be of."""
  zero = isinstance(gradient, jax.custom_derivatives.SymbolicZero)
  return None if zero else gradient
