"""The matrix memory of xLSTM (Beck et al. 2024, arXiv:2405.04517, eq. 19 to 27).

    m_t = max(f_t + m_{t-1}, i_t, 0)
    C_t = exp(f_t + m_{t-1} - m_t) C_{t-1} + exp(i_t - m_t) k_t v_t^T        [K, V]
    n_t = exp(f_t + m_{t-1} - m_t) n_{t-1} + exp(i_t - m_t) k_t              [K]
    h_t = C_t^T q_t / (max(|n_t^T q_t|, exp(-m_t)) + epsilon)

Input gates are exponential, so memory and normaliser are held divided by exp(m), which
h does not depend on. (In the paper m_t has no 0, and may fall without bound. It is only
needed against overflow, and next to exp(-m) what is below exp(-m_t) does not count. The
epsilon is that of the authors' code.)

With m known, which takes one scan of numbers, this is a scalar decay of f_t + m_{t-1} -
m_t <= 0 with keys k_t exp(i_t - m_t), and n is one more channel of ones in v.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseq.ops import checks, chunks, dispatch
from jaxseq.ops.dispatch import Form
from jaxseq.ops.linear import scalar_decay

__all__ = ["IMPLEMENTATIONS", "MLSTMState", "mlstm"]


class MLSTMState(NamedTuple):
  """Memory and normaliser, both divided by exp(m). float32."""

  C: Float[Array, "B H K V"]
  n: Float[Array, "B H K"]
  m: Float[Array, "B H"]


def mlstm(
  q: Float[Array, "B T H K"],
  k: Float[Array, "B T H K"],
  v: Float[Array, "B T H V"],
  log_input_gate: Float[Array, "B T H"],
  log_forget_gate: Float[Array, "B T H"],
  *,
  initial_state: MLSTMState | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  scale: float | None = None,
  epsilon: float = 1e-6,
  implementation: str = "auto",
) -> tuple[Float[Array, "B T H V"], MLSTMState]:
  """Reads a fading, weighted mean of values with queries.

  Args:
    q: Queries.
    k: Keys.
    v: Values.
    log_input_gate: Natural log i of the weight of each token; any number.
    log_forget_gate: Natural log f of the share of the memory kept at each token, such
      as log sigmoid of a projection.
    initial_state: State before the first token. Zeros if None.
    segment_ids: Packed documents; see `ops.segments`.
    scale: Of the queries. K^-1/2 if None.
    epsilon: Added to the normaliser.
    implementation: A key of `IMPLEMENTATIONS`, or "auto".

  Returns:
    h in the dtype of `v`, and the last state. No gradient flows through the choice of
    m: what a state stands for, C exp(m) and n exp(m), has its full gradient.

  Raises:
    ValueError: If shapes do not fit or `implementation` is unknown.
  """
  C, n, m = (None, None, None) if initial_state is None else initial_state
  q, k, v = chunks.share_heads(q, k, v)
  checks.check_shapes(
    "mlstm",
    q=(q, "B T H K"),
    k=(k, "B T H K"),
    v=(v, "B T H V"),
    log_input_gate=(log_input_gate, "B T H"),
    log_forget_gate=(log_forget_gate, "B T H"),
    C=(C, "B H K V"),
    n=(n, "B H K"),
    m=(m, "B H"),
  )
  gates = dict(i=(log_input_gate, "B T H"), f=(log_forget_gate, "B T H"))
  state = None if C is None else jnp.concatenate([C, n[..., None]], axis=-1)
  v = jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1)
  inputs = chunks.prepare("mlstm", q, k, v, gates, state, segment_ids, scale)
  kind = inputs.state.dtype
  m = jnp.zeros(inputs.state.shape[:2], kind) if m is None else m.astype(kind)
  run = dispatch.select("mlstm", IMPLEMENTATIONS, implementation, q.shape[1], inputs, m)
  read, S, m = run(inputs, m)
  read = read.astype(kind)
  h = read[..., :-1] / (
    jnp.maximum(jnp.abs(read[..., -1:]), jnp.exp(-m)[..., None]) + epsilon
  )
  return h.astype(v.dtype), MLSTMState(S[..., :-1], S[..., -1], m[:, -1])


def recurrent(inputs, m):
  """The definition, with C and n side by side in S."""
  q, k, v, (i, f), S, valid, starts, _ = inputs

  def step(state, token):
    S, m = state
    q, k, v, i, f, valid, start = token
    S, m = jnp.where(start[:, None, None, None], 0, S), jnp.where(start[:, None], 0, m)
    i = jnp.where(valid[:, None], i, -jnp.inf)
    after = jnp.where(valid[:, None], jnp.maximum(f + m, jnp.maximum(i, 0)), m)
    after = jax.lax.stop_gradient(after)
    S = jnp.exp(f - (after - m))[..., None, None] * S
    S += jnp.exp(i - after)[..., None, None] * k[..., None] * v[..., None, :]
    read = jnp.einsum("bhk,bhkv->bhv", q, S, precision="highest")
    return (S, after), (read, after)

  q, k, v = (x.astype(S.dtype) for x in (q, k, v))
  tokens = jax.tree.map(lambda x: x.swapaxes(0, 1), (q, k, v, i, f, valid, starts))
  (S, _), (read, m) = jax.lax.scan(step, (S, m), tokens)
  read, m = read.swapaxes(0, 1), m.swapaxes(0, 1)
  return jnp.where(valid[..., None, None], read, 0), S, m


def _as_scalar_decay(form):
  """A form of `scalar_decay`, once every m is known."""

  def run(inputs, m):
    decay, weight, after = _stabilized(inputs, m)
    k = (weight[..., None] * inputs.k).astype(inputs.k.dtype)
    read, S = form(inputs._replace(k=k, gates=(decay,)))
    return read, S, after

  return run


def _stabilized(inputs, m):
  """The decay and the weight of each token [B, T, H], and its m."""
  i, f = inputs.gates
  i = jnp.where(inputs.valid[..., None], i, -jnp.inf)
  after = jax.lax.stop_gradient(_stabilizers(i, f, m, inputs.valid, inputs.starts))
  before = jnp.concatenate([m[:, None], after[:, :-1]], axis=1)
  before = jnp.where(inputs.starts[..., None], 0, before)
  # In this order: the steps of m are exact, its sum with f is not.
  return f - (after - before), jnp.exp(i - after), after


def _apart(for_memory, for_normalizer, kind=None):
  """Forms of `scalar_decay` that are kernels, for C and n apart: they differ in width.

  Args:
    for_memory: The form for C.
    for_normalizer: That for n.
    kind: The dtype of k and v, if not their own.
  """

  def part(x, columns, decay):
    state = None if x.state is None else x.state[..., columns]
    v = x.v[..., columns].astype(kind or x.v.dtype)
    return x._replace(v=v, gates=(decay,), state=state)

  def parts(inputs, decay):
    for c in (slice(-1), slice(-1, None)):
      given = part(inputs.given, c, decay)
      yield part(inputs, c, decay)._replace(given=given)

  def run(inputs, m):
    decay, weight, after = _stabilized(inputs, m)
    weigh = lambda x: x._replace(k=(weight[..., None] * x.k).astype(kind or x.k.dtype))
    inputs = weigh(inputs)._replace(given=weigh(inputs.given))
    memory, normalizer = parts(inputs, decay)
    outputs = for_memory.run(memory), for_normalizer.run(normalizer)
    read, S = (jnp.concatenate(x, axis=-1) for x in zip(*outputs))
    return read, S, after

  def refusal(inputs, m):
    return for_memory.refusal(next(parts(inputs, inputs.gates[1])))

  return Form(run, refusal)


def _stabilizers(i, f, m, valid, starts):
  """m at all tokens: the maps m -> max(m + a, b), composed by a tree."""
  valid, starts = valid[..., None], starts[..., None]
  a = jnp.where(starts, -jnp.inf, f)
  b = jnp.where(
    valid, jnp.maximum(i, jnp.where(starts, jnp.maximum(f, 0), 0)), -jnp.inf
  )

  def compose(first, then):
    (a, b), (c, d) = first, then
    return a + c, jnp.maximum(b + c, d)

  a, b = jax.lax.associative_scan(compose, (a, b), axis=1)
  return jnp.maximum(m[:, None] + a, b)


DECAY = scalar_decay.IMPLEMENTATIONS

IMPLEMENTATIONS = {
  "pallas_tpu": _apart(DECAY["pallas_tpu"], DECAY["pallas_tpu"]),
  "pallas_gpu": _apart(DECAY["pallas_gpu"], DECAY["pallas_gpu"]),
  "chunked": Form(_as_scalar_decay(scalar_decay.chunked)),
  "parallel": Form(_as_scalar_decay(scalar_decay.parallel)),
  # n is small, and not worth a kernel.
  "pallas_gpu_step": _apart(
    chunks.by_step("log_decay"), DECAY["recurrent"], jnp.float32
  ),
  "recurrent": Form(recurrent),
}
