"""The recurrence made differentiable: its gradient is a recurrence in reverse time.

With dh_t the gradient of the state h_t, and with that of the last state added at T,

    l_t = dh_t + conj(a_{t+1}) l_{t+1}      dx_t = l_t,    da_t = conj(h_{t-1}) l_t

The states are the output, so that nothing is kept but inputs and output. A complex
array is two real ones here, its parts, whose gradients are those of real numbers.
"""

import functools

import jax

__all__ = ["scan"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def scan(a, x, state, interpret):
  """See `pallas_tpu.forward`."""
  from jaxseq_kernels.diagonal_recurrence import pallas_tpu

  return pallas_tpu.forward(a, x, state, interpret=interpret)


def _forward(a, x, state, interpret):
  h, last = scan(a, x, state, interpret)
  return (h, last), (a, h, state)


def _backward(interpret, kept, gradients):
  from jaxseq_kernels.diagonal_recurrence import pallas_tpu

  a = kept[0]
  da, dx, dstate = pallas_tpu.backward(*kept, *gradients, interpret=interpret)
  if da[0].shape[0] != a[0].shape[0]:  # It is the same in all rows.
    da = tuple(y.sum(axis=0, keepdims=True) for y in da)
  return da, dx, dstate


scan.defvjp(_forward, _backward)
