"""The scan made differentiable: the backward pass makes the states again.

With u_t = dt_t x_t, a_t = exp(dt_t A), and dy_t the gradient of y_t, the gradient of
the state after token t is

    l_t = C_t dy_t + a_{t+1} l_{t+1}               and with it and g_t = a_t l_t h_{t-1}
    dC_t = sum_d dy_t h_t      dB_t = sum_d l_t u_t     du_t = sum_n B_t l_t
    dA = sum_t dt_t g_t        ddt_t = sum_n A g_t + x_t du_t      dx_t = dt_t du_t

Nothing is kept but the inputs and the state before each block of tokens.
"""

import functools

import jax

__all__ = ["scan"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(7,))
def scan(x, dt, A, B, C, state, starts, interpret):
  """See `pallas_tpu.forward`."""
  return _forward(x, dt, A, B, C, state, starts, interpret)[0]


def _forward(x, dt, A, B, C, state, starts, interpret):
  from jaxseq_kernels.selective_scan import pallas_tpu

  args = (x, dt, A, B, C, state, starts)
  y, last, before = pallas_tpu.forward(*args, interpret=interpret)
  return (y, last), (x, dt, A, B, C, before, starts)


def _backward(interpret, kept, gradients):
  from jaxseq_kernels.selective_scan import pallas_tpu

  dx, ddt, dA, dB, dC, dstate = pallas_tpu.backward(
    *kept, *gradients, interpret=interpret
  )
  return dx, ddt, dA.sum(axis=0), dB, dC, dstate, None


scan.defvjp(_forward, _backward)
