"""What a program computes, counted in its jaxpr.

XLA's own `cost_analysis` counts the body of a loop once, however often it runs, and so
would give a recurrent network the cost of one token.
"""

import math

import jax
from jax.extend import core

__all__ = ["flops"]

# They only move numbers.
FREE = frozenset(
  "broadcast_in_dim reshape transpose squeeze slice concatenate dynamic_slice "
  "dynamic_update_slice gather scatter convert_element_type iota copy pad rev "
  "stop_gradient expand_dims split".split()
)


def flops(function, *shapes) -> int:
  """Multiplications, additions and further functions of numbers, one each.

  Args:
    function: What to count.
    shapes: Its arguments, or their `jax.ShapeDtypeStruct`.
  """
  return _count(jax.make_jaxpr(function)(*shapes).jaxpr)


def _count(jaxpr) -> int:
  return sum(_equation(eqn) for eqn in jaxpr.eqns)


def _equation(eqn) -> int:
  name, size = eqn.primitive.name, lambda v: math.prod(v.aval.shape)
  if name == "dot_general":
    (contracted, _), _ = eqn.params["dimension_numbers"]
    lhs = eqn.invars[0].aval.shape
    return 2 * size(eqn.outvars[0]) * math.prod(lhs[i] for i in contracted)
  if name == "conv_general_dilated":
    out_axis = eqn.params["dimension_numbers"].rhs_spec[0]
    kernel = eqn.invars[1].aval.shape
    return 2 * size(eqn.outvars[0]) * math.prod(kernel) // kernel[out_axis]
  if name == "fft":
    points = math.prod(eqn.params["fft_lengths"])
    return int(5 * size(eqn.outvars[0]) * math.log2(max(points, 2)))
  inner = [_count(j) for j in map(_jaxpr, _leaves(eqn.params)) if j is not None]
  if name == "cond":
    return max(inner)
  if inner:
    grid = getattr(eqn.params.get("grid_mapping"), "grid", ())
    times = eqn.params.get("length", 1) if name == "scan" else math.prod(grid)
    return times * sum(inner)
  if name in FREE:
    return 0
  # A reduction reads each input once; all else makes each output once.
  reads = name.startswith(("reduce", "arg", "cum"))
  return max(map(size, eqn.invars if reads else eqn.outvars), default=0)


def _leaves(params):
  for value in params.values():
    yield from value if isinstance(value, tuple | list) else (value,)


def _jaxpr(value):
  if isinstance(value, core.ClosedJaxpr):
    return value.jaxpr
  return value if isinstance(value, core.Jaxpr) else None
