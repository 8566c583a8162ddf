"""The letters that name axes in jaxtyping annotations and in error messages.

B batch, T time, S key time, D width, H heads, G key-value heads, K and V per-head
sizes, N state, C chunk, L layers, F inner width, R rank, M slots, W vocabulary or the
taps of a short convolution.
"""

from typing import Any

# What a mixer carries from one call to the next: a pytree of arrays of fixed shapes.
State = Any
