import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import models, parallel, testing

MESHES = {
  "data": dict(data=8),
  "fsdp": dict(data=1, fsdp=8),
  "tensor": dict(data=1, tensor=8),
  "sequence": dict(data=4, sequence=2),
  "mixed": dict(data=2, fsdp=2, tensor=2),
}


def model_and_batch():
  config = models.BackboneConfig(
    features=64,
    num_layers=2,
    pattern=("gated_delta_net", "attention"),
    num_heads=8,
    dtype=jnp.float32,
  )
  model = models.LanguageModel(config, vocab_size=64)
  tokens = jax.random.randint(jax.random.key(1), (8, 22), 0, 64)
  ids = jnp.ones((8, 22), jnp.int32).at[:, 9:].set(2)
  weights = jnp.ones((8, 22)).at[3].set(0)
  batch = dict(inputs=tokens, targets=tokens, weights=weights, segment_ids=ids)
  return model, jax.tree.map(np.asarray, batch)


@pytest.fixture(scope="module")
def reference():
  model, batch = model_and_batch()
  boxed = jax.jit(model.init)(jax.random.key(0), batch["inputs"])
  loss = lambda params, batch: model.apply(params, batch, method="loss")[0]
  step = jax.value_and_grad(loss)
  return boxed, batch, step, jax.jit(step)(nn.unbox(boxed), batch)


@pytest.mark.parametrize("name", MESHES)
def test_every_mesh_gives_the_loss_and_gradients_of_one_device(name, reference):
  boxed, batch, step, want = reference
  mesh = parallel.make_mesh(parallel.MeshConfig(**MESHES[name]))
  places = parallel.shardings(mesh, boxed)
  params = jax.device_put(jax.tree.map(np.asarray, nn.unbox(boxed)), places)
  with jax.set_mesh(mesh), nn.logical_axis_rules(parallel.RULES):
    got = jax.jit(step)(params, parallel.global_batch(mesh, batch))
  testing.assert_close(jax.tree.map(np.asarray, got), want)


def test_parameters_are_really_cut(reference):
  boxed = reference[0]
  for name, least in [("fsdp", 8), ("tensor", 6), ("mixed", 3.5)]:
    mesh = parallel.make_mesh(parallel.MeshConfig(**MESHES[name]))
    places = parallel.shardings(mesh, boxed)
    size = lambda x, place: np.prod(place.shard_shape(x.shape))
    shapes = nn.unbox(boxed)
    here = sum(jax.tree.leaves(jax.tree.map(size, shapes, places)))
    whole = sum(x.size for x in jax.tree.leaves(shapes))
    assert whole / here > 0.8 * least, f"{name}: each device holds 1/{whole / here:.1f}"


@pytest.mark.parametrize(
  "sizes, words",
  [
    (dict(data=3), "does not fit 8 devices"),
    (dict(data=-1, fsdp=-1), "one of them at most -1"),
    (dict(data=0), "sizes >= 1"),
    (dict(data=-1, tensor=3), "does not fit 8 devices"),
  ],
)
def test_a_mesh_that_does_not_fit_is_refused(sizes, words):
  with pytest.raises(ValueError, match=words):
    parallel.make_mesh(parallel.MeshConfig(**sizes))


def test_a_parameter_that_does_not_divide_is_named():
  model = models.LanguageModel(
    models.BackboneConfig(32, 1, ("attention",), dtype=jnp.float32), vocab_size=37
  )
  boxed = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
  mesh = parallel.make_mesh(parallel.MeshConfig(data=1, tensor=8))
  with pytest.raises(ValueError, match=r"embedding of shape \(37, 32\)"):
    parallel.shardings(mesh, boxed)


def test_one_process_feeds_all_rows():
  assert parallel.process_rows(parallel.make_mesh(parallel.MeshConfig())) == (0, 1)
