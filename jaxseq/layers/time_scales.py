"""Initial time scales of Mamba and its heirs (Gu & Dao 2023, arXiv:2312.00752, 3.6).

dt = softplus(x W + b),    decay exp(-dt exp(A_log))

and of S4 and its like, dt = exp(log_dt).
"""

import math

import jax
import jax.numpy as jnp

__all__ = ["log_step_init", "rate_init", "step_init"]


def log_step_init(low, high):
  """An initializer of log_dt, with step sizes log-uniform in [low, high]."""
  bounds = math.log(low), math.log(high)
  return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, *bounds)


def rate_init(key, shape, dtype=jnp.float32):
  """A_log with rates exp(A_log) uniform in [1, 16], as in Mamba-2's code."""
  return jnp.log(jax.random.uniform(key, shape, dtype, 1.0, 16.0))


def step_init(key, shape, dtype=jnp.float32):
  """b, the inverse of softplus at step sizes log-uniform in [0.001, 0.1]."""
  low, high = math.log(0.001), math.log(0.1)
  dt = jnp.exp(jax.random.uniform(key, shape, dtype, low, high))
  return dt + jnp.log(-jnp.expm1(-dt))
