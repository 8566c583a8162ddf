import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing
from jaxseq.modules.linear import GatedSlotAttention


def test_one_slot_is_a_fading_mean_of_the_values():
  mixer = GatedSlotAttention(features=32, num_slots=1, dtype=jnp.float32)
  params, x = testing.example(mixer)
  params = nn.unbox(params)
  y, _ = jax.jit(mixer.apply)(params, x)
  p = params["params"]
  decay = jax.nn.sigmoid(x @ p["gate"]["kernel"]) ** (1 / 8)  # A number a head.
  decay = np.repeat(decay, 8, axis=-1)
  v = np.asarray(jax.nn.swish(x @ p["v"]["kernel"]))
  mean, out = np.zeros((2, 32)), []
  for t in range(x.shape[1]):
    mean = decay[:, t] * mean + (1 - decay[:, t]) * v[:, t]
    out.append(mean)
  o = jax.nn.swish(np.stack(out, axis=1))
  o = o / np.sqrt(np.mean(o**2, axis=-1, keepdims=True) + 1e-5) * p["norm"]["scale"]
  testing.assert_close(y, o @ p["out"]["kernel"])


def test_heads_that_do_not_divide_are_named():
  with pytest.raises(ValueError, match="GatedSlotAttention needs num_heads"):
    GatedSlotAttention(features=32, num_heads=5)
