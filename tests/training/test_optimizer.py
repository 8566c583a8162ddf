import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import testing, training


def config(**fields):
  return training.OptimizerConfig(**(dict(total_steps=100) | fields))


def tree(key=0, stacked=3):
  draw = lambda i, *shape: jax.random.normal(jax.random.key(10 * key + i), shape)
  return {
    "embedding": draw(0, 20, 8),
    "layers": {
      "gate": {"kernel": draw(1, stacked, 8, 6), "bias": draw(2, stacked, 6)},
      "norm": {"scale": draw(3, stacked, 8)},
      "q_conv": draw(4, stacked, 4, 8),
    },
    "output": {"kernel": draw(5, 8, 5)},
  }


def test_schedules_rise_to_the_peak_and_fall_to_the_end():
  for name, middle in [("cosine", 0.55), ("linear", 0.55), ("wsd", 1), ("constant", 1)]:
    c = config(total_steps=110, warmup_steps=10, schedule=name, learning_rate=1.0)
    rate = training.schedule(c)
    assert 0 < rate(0) <= 0.2 and abs(rate(10) - 1) < 0.02
    np.testing.assert_allclose(rate(59), middle, atol=0.02)
    end = 1 if name == "constant" else 0.1
    np.testing.assert_allclose(rate(109), end, atol=0.02)


def test_a_long_warmup_leaves_wsd_the_rest_to_decay_in():
  c = config(warmup_steps=90, schedule="wsd", learning_rate=1.0)
  rate = training.schedule(c)
  np.testing.assert_allclose([rate(89), rate(94), rate(99)], [1, 0.55, 0.1], rtol=1e-5)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_epsilon_reaches_the_optimizer(name):
  params, steps = {"bias": jnp.ones(3)}, []
  for epsilon in (1e-8, 1e3):
    optimizer = training.make_optimizer(config(name=name, epsilon=epsilon))
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    steps.append(float(jnp.abs(updates["bias"]).max()))
  assert steps[1] < 1e-2 * steps[0]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_weight_decay_acts_on_kernels_alone(name):
  c = config(name=name, weight_decay=0.5, learning_rate=0.1, schedule="constant")
  params, optimizer = tree(), training.make_optimizer(c)
  zeros = jax.tree.map(jnp.zeros_like, params)
  updates, _ = optimizer.update(zeros, optimizer.init(params), params)
  want = jax.tree.map(jnp.zeros_like, params)
  kernel = params["layers"]["gate"]["kernel"]
  want["layers"]["gate"]["kernel"] = -0.05 * kernel
  testing.assert_close(updates, want)


def test_muon_on_stacked_layers_is_muon_on_each():
  c = config(name="muon", weight_decay=0.0, clip_norm=0.0)
  params, grads = tree(), tree(key=1)
  optimizer = training.make_optimizer(c)
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  for i in range(3):
    one = lambda t, i=i: (
      t | {"layers": jax.tree.map(lambda x, i=i: x[i : i + 1], t["layers"])}
    )
    alone, _ = optimizer.update(one(grads), optimizer.init(one(params)), one(params))
    got = updates["layers"]["gate"]["kernel"][i]
    testing.assert_close(got, alone["layers"]["gate"]["kernel"][0])
    # Orthogonalised: the singular values are near one another, whatever the gradient's.
    values = np.linalg.svd(got, compute_uv=False)
    assert values.max() / values.min() < 2.5


def test_a_large_gradient_is_clipped():
  params = {"x": jnp.zeros(4)}
  updates = []
  for scale in (1e3, 1e6):
    optimizer = training.make_optimizer(config(clip_norm=1.0))
    grads = {"x": jnp.full(4, scale)}
    updates.append(optimizer.update(grads, optimizer.init(params), params)[0]["x"])
  testing.assert_close(*updates)


@pytest.mark.parametrize(
  "field, value",
  [
    ("name", "sgd"),
    ("schedule", "cosin"),
    ("learning_rate", 0.0),
    ("beta2", 1.0),
    ("total_steps", 0),
    ("warmup_steps", 100),
    ("clip_norm", -1.0),
  ],
)
def test_a_field_out_of_range_is_named(field, value):
  with pytest.raises(ValueError, match=f"optimizer needs {field}"):
    config(**{field: value})
