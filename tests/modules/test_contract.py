"""The contract of a mixer, proved for every name in the registry."""

import dataclasses
import functools
import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import models, ops, parallel, registry, testing

NAMES = sorted(registry.MIXERS)


@functools.cache
def mixer(name, **attributes):
  return registry.mixer(name)(features=32, dtype=jnp.float32, **attributes)


def forms(name):
  return importlib.import_module(getattr(ops, registry.entry(name).op).__module__)


def recurrent(name):
  """The mixer in the form that compiles fastest; the others are proved to agree."""
  has_one = "recurrent" in forms(name).IMPLEMENTATIONS
  return mixer(name, implementation="recurrent") if has_one else mixer(name)


def promises(name, what):
  entry = registry.entry(name)
  return {
    "causality": entry.causal,
    "states": entry.state != "none",
    "documents": entry.packing,
  }[what]


def checks(name):
  """Those of the contract's checks that hold for a mixer of these properties."""
  left_out = set()
  if not promises(name, "causality"):
    left_out.add("outputs_do_not_depend_on_later_inputs")
  if not promises(name, "states"):
    left_out |= testing.OF_STATES
  if not promises(name, "documents"):
    left_out |= testing.OF_DOCUMENTS
  return [check for check in testing.CHECKS if check not in left_out]


@pytest.mark.parametrize(
  "name, check", [(name, check) for name in NAMES for check in checks(name)]
)
def test_contract(name, check):
  testing.CHECKS[check](recurrent(name))


@pytest.mark.parametrize("name", [n for n in NAMES if not promises(n, "states")])
def test_a_mixer_without_a_state_returns_none_and_refuses_one(name):
  params, x = testing.example(recurrent(name))
  _, state = jax.eval_shape(mixer(name).apply, params, x)
  assert state is None
  with pytest.raises(ValueError, match="state"):
    jax.eval_shape(mixer(name).apply, params, x, jnp.zeros(len(x)))


@pytest.mark.parametrize("name", [n for n in NAMES if not promises(n, "documents")])
def test_a_mixer_that_cannot_pack_refuses_segment_ids(name):
  params, x = testing.example(recurrent(name))
  ids = jnp.ones(x.shape[:2], jnp.int32)
  with pytest.raises(ValueError, match="segment_ids"):
    jax.eval_shape(lambda p, x: mixer(name).apply(p, x, segment_ids=ids), params, x)


@pytest.mark.parametrize("name", NAMES)
def test_all_forms_agree_with_the_recurrent_form(name):
  params, x = testing.example(recurrent(name))
  state = ids = None
  if promises(name, "states"):
    _, state = testing._outputs(recurrent(name), params, x)
  if promises(name, "documents"):
    ids = np.ones(x.shape[:2], np.int32)
    ids[0, 8:], ids[1, 17:] = 2, 0
  cotangents = testing._cotangents(recurrent(name))
  run = lambda form, *args: testing._gradients(form, params, x, *args, cotangents)
  ran, names = 0, set(forms(name).IMPLEMENTATIONS)
  for form in names - {recurrent(name).implementation}:
    other = mixer(name, implementation=form)
    for args in ((state, ids), (None, None)):  # Some take no more than one whole row.
      try:
        got_grads, got = run(other, *args)
      except NotImplementedError as refusal:
        assert form not in ("chunked", "parallel", "associative", "blockwise"), refusal
        continue  # Or it is a kernel for hardware that is not here.
      ran += 1
      grads, out = run(recurrent(name), *args)
      testing.assert_close(got, out, message=f"{form} ")
      testing.assert_close(got_grads, grads, message=f"{form}, gradient ")
      break
  plain = {form for form in names if not form.startswith("pallas_")}
  assert ran or plain == {"recurrent"}


@pytest.mark.parametrize("name", [n for n in NAMES if promises(n, "states")])
def test_the_declared_state_size_is_the_real_one(name):
  entry = registry.entry(name)
  state = jax.eval_shape(lambda: mixer(name).initial_state(1))
  assert sum(leaf.size for leaf in jax.tree.leaves(state)) == entry.state_size(
    mixer(name)
  )
  grows = "max_length" in {f.name for f in dataclasses.fields(entry.cls)}
  assert entry.state != "growing" or grows


@pytest.mark.parametrize("name", NAMES)
def test_a_scanned_stack_is_its_layers_one_after_another(name):
  config = models.BackboneConfig(
    features=32,
    num_layers=2,
    pattern=(name,),
    mlp="none",
    dtype=jnp.float32,
    mixer_options={name: dict(implementation=recurrent(name).implementation)},
  )
  one, x = testing.example(recurrent(name))
  layers = [one, jax.tree.map(lambda p: np.float32(0.9) * np.asarray(p), one)]
  stacked = jax.tree.map(lambda *p: np.stack(p), *nn.unbox(layers)).get("params", {})
  ones = lambda *shape: {"scale": np.ones((*shape, 32), np.float32)}
  params = {"layers": {"mixer_0": stacked, "mixer_norm_0": ones(2)}}
  params["final_norm"] = ones()
  y, _ = jax.jit(models.Backbone(config).apply)({"params": params}, x)
  norm = lambda x: (
    x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(1e-6))
  )
  want = np.asarray(x)
  for layer in layers:
    out, _ = testing._outputs(recurrent(name), layer, norm(want))
    want = want + np.asarray(out)
  testing.assert_close(y, norm(want))


@pytest.mark.parametrize("name", NAMES)
def test_a_train_step_compiles_in_bfloat16_with_remat_and_scan(name):
  config = models.BackboneConfig(
    features=32, num_layers=4, pattern=(name,), mlp="none", remat="full"
  )
  stack = models.Backbone(config)
  x = jnp.zeros((2, 21, 32), jnp.bfloat16)
  params = nn.unbox(jax.eval_shape(stack.init, jax.random.key(0), x))
  loss = lambda params, x: jnp.sum(stack.apply(params, x)[0].astype(jnp.float32) ** 2)
  step = jax.jit(lambda params, x: jax.grad(loss)(params, x))
  compiled = step.lower(params, x).compile()
  assert compiled.memory_analysis().output_size_in_bytes > 0


@pytest.mark.parametrize("name", NAMES)
def test_sharding_over_eight_devices_changes_nothing(name):
  assert len(jax.devices()) == 8
  module = recurrent(name)
  params, x = testing.example(module)
  cotangents = testing._cotangents(module)
  # A batch that data and fsdp divide.
  backward = np.asarray(x)[:, ::-1]
  twice = np.concatenate([x, backward])
  of_twice = jax.tree.map(lambda c: np.concatenate([c, c]), cotangents)
  mesh = parallel.make_mesh(parallel.MeshConfig(data=2, fsdp=2, tensor=2))
  boxed = jax.eval_shape(module.init, jax.random.key(0), x)
  places = parallel.shardings(mesh, boxed)
  rows = parallel.batch_sharding(mesh, x.ndim)
  loss = lambda p, x: testing._objective(module, p, x, None, None, of_twice)[0]
  with jax.set_mesh(mesh):
    step = jax.jit(jax.grad(loss, argnums=(0, 1)), in_shardings=(places, rows))
    got = step(jax.tree.map(np.asarray, nn.unbox(params)), twice)
  parts = [
    nn.unbox(testing._gradients(module, params, part, None, None, cotangents)[0])
    for part in (x, backward)
  ]
  want = (
    jax.tree.map(lambda a, b: np.asarray(a) + np.asarray(b), *(p[0] for p in parts)),
    np.concatenate([p[1] for p in parts]),
  )
  testing.assert_close(jax.tree.map(np.asarray, got), want)


def test_an_unknown_name_brings_the_nearest():
  with pytest.raises(ValueError, match="gated_delta_net"):
    registry.mixer("gated_deltanet")
