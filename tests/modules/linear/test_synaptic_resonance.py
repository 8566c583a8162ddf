import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxseq import testing
from jaxseq.modules.linear import SynapticResonance


def test_it_is_the_recurrence_of_its_docstring():
  mixer = SynapticResonance(features=32, dtype=jnp.float32)
  params, x = testing.example(mixer)
  got, state = jax.jit(mixer.apply)(params, x)
  p = nn.unbox(params)["params"]
  x = np.float64(x)
  heads = lambda name: (x @ np.float64(p[name]["kernel"])).reshape(2, -1, 4, 8)
  unit = lambda y: y / np.sqrt(np.sum(y**2, axis=-1, keepdims=True) + 1e-6)
  q, k, v = unit(heads("q")), unit(heads("k")), heads("v")
  decay = 1 / (1 + np.exp(-np.float64(p["decay"])))
  c, R, o = np.zeros((2, 4, 8)), np.zeros((2, 4, 8, 8)), []
  for t in range(x.shape[1]):
    r = (1 + np.sum(k[:, t] * unit(c), axis=-1)) / 2
    c = decay[:, None] * c + k[:, t]
    write = (np.float64(p["rate"]) * r)[..., None, None]
    R = decay[:, None, None] * R + write * k[:, t, :, :, None] * v[:, t, :, None]
    o.append(v[:, t] + np.einsum("bhk,bhkv->bhv", q[:, t], R))
  want = np.stack(o, axis=1).reshape(x.shape) @ np.float64(p["out"]["kernel"])
  np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(state.memory, R, rtol=1e-3, atol=1e-4)
