"""The forms for compilers that fuse, against those that autodiff derives."""

import dataclasses
import types
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import updates

from gpt_jax import config
from gpt_jax.evaluation import introspection
from gpt_jax.model import fused, lora, quantize
from gpt_jax.model.gpt import GPT, init_params
from gpt_jax.model.gpt_config import Execution, GPTConfig
from gpt_jax.runs import cost_tables
from gpt_jax.training import loss, narrow_loss, optim, sharding, step
from gpt_jax.training.objective import LanguageModeling

# Share of an array's norm by which bfloat16 may differ: a few roundings of 2^-9.
NARROW = 2e-2


def draws(*shapes):
  """Returns an array of normal draws for each shape."""
  keys = jax.random.split(jax.random.key(0), len(shapes))
  return [
    1 + jax.random.normal(k, shape) for k, shape in zip(keys, shapes, strict=True)
  ]


def assert_near(tree, wanted, share):
  """Asserts that arrays differ by at most a share of their norm."""
  assert jax.tree.structure(tree) == jax.tree.structure(wanted)
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(wanted), strict=True
  ):
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    assert a.shape == b.shape
    error = np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-6)
    assert error <= share, (jax.tree_util.keystr(path), error)


@pytest.mark.parametrize('dtype, share', [('float32', 1e-5), ('bfloat16', NARROW)])
@pytest.mark.parametrize(
  'normed, shifted, biased',
  [(True, True, True), (True, True, False), (True, False, False), (False, False, True)],
)
@pytest.mark.parametrize('B', [2, 256])  # 512 rows are summed in two steps, 4 in one
def test_layers_of_one_input_and_all_their_gradients(
  B, normed, shifted, biased, dtype, share
):
  x, scale, shift, *rest = draws((B, 2, 8), (8,), (8,), (8, 3), (8, 5), (3,), (5,))
  kernels, biases = tuple(rest[:2]), tuple(rest[2:]) if biased else (None, None)
  args = scale if normed else None, shift if shifted else None, kernels, biases
  x, weights = x.astype(dtype), draws((B, 2, 3), (B, 2, 5))

  def plain(x, scale, shift, kernels, biases):
    y = x.astype(jnp.float32)
    y = y if scale is None else y * scale
    y = y if shift is None else y + shift
    pairs = zip(kernels, biases, strict=True)
    return tuple(y @ k + (0 if b is None else b) for k, b in pairs)

  def gradients(make):
    def total(*args):
      pairs = zip(make(*args), weights, strict=True)
      return sum((y.astype(jnp.float32) * w).sum() for y, w in pairs)

    return jax.jit(jax.grad(total, (0, 1, 2, 3, 4)))(x, *args)

  assert_near(fused.affine(x, *args), plain(x, *args), share)
  assert_near(gradients(fused.affine), gradients(plain), share)


@pytest.mark.parametrize('dtype, share', [('float32', 1e-5), ('bfloat16', NARROW)])
def test_a_normalised_array_and_its_gradient(dtype, share):
  x, w = draws((3, 5, 16), (3, 5, 16))
  x = 4 * x + 2

  def plain(x):
    y = x - x.mean(-1, keepdims=True)
    return y / jnp.sqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-5)

  assert_near(fused.unit(x, dtype), plain(x), share)
  assert fused.unit(x, dtype).dtype == dtype
  gradients = [
    jax.grad(lambda x, make=make: (make(x) * w).sum())(x)
    for make in (lambda x: fused.unit(x, dtype), plain)
  ]
  assert_near(*gradients, share)


@pytest.mark.parametrize('dtype, share', [('float32', 1e-5), ('bfloat16', NARROW)])
@pytest.mark.parametrize('chunk', [8, 2])
def test_the_loss_of_narrow_logits_and_its_gradients(chunk, dtype, share):
  x_BTD, head_VD, w_BT = draws((3, 8, 5), (128, 5), (3, 8))
  y_BT = jax.random.randint(jax.random.key(1), (3, 8), 0, 100)
  w_BT = w_BT.at[0].set(0)
  x_BTD = x_BTD.astype(dtype)

  def plain(x, head):
    logits = jnp.where(jnp.arange(128) < 100, x @ head.T, -jnp.inf)
    return 3 * loss.nll_sum(logits, y_BT, w_BT)

  def narrow(x, head):
    return 3 * narrow_loss.nll_sum(x, head, y_BT, w_BT, 100, chunk)

  results = [
    jax.jit(jax.value_and_grad(f, (0, 1)))(x_BTD, head_VD) for f in (narrow, plain)
  ]
  assert_near(*results, share)
  assert not np.any(results[0][1][1][100:])  # of the vocabulary's padding
  assert results[0][1][1].dtype == jnp.float32


@pytest.mark.parametrize('form', ['chunked', 'narrow'])
def test_gradients_of_the_head_by_parts_are_those_of_the_whole(form):
  mesh = jax.sharding.Mesh(jax.devices()[:4], ('data',))
  place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
  parts = loss.Parts(4, lambda x: jax.lax.with_sharding_constraint(x, place))
  x, head = draws((8, 6, 16), (128, 16))
  y = jax.random.randint(jax.random.key(1), (8, 6), 0, 120)
  w = jnp.arange(48.0).reshape(8, 6) % 3
  sums = {
    'chunked': partial(loss.chunked_nll_sum, vocab=120, chunk=2),
    'narrow': partial(narrow_loss.nll_sum, vocab=120, chunk=2),
  }[form]

  def taken(parts):
    f = jax.jit(
      jax.value_and_grad(lambda x, head: sums(x, head, y, w, parts=parts), (0, 1))
    )
    return f(jax.device_put(x, place), head)

  for one, other in zip(
    jax.tree.leaves(taken(parts)), jax.tree.leaves(taken(None)), strict=True
  ):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_logits_far_apart_have_a_finite_loss():
  """A sum of exponentials without its largest term taken out would overflow."""
  x_BTD = jnp.full((1, 2, 1), 1000.0)
  head_VD = jnp.zeros((128, 1)).at[3].set(1.0)
  y_BT = jnp.array([[3, 4]])
  f = lambda head: narrow_loss.nll_sum(  # noqa: E731
    x_BTD, head, y_BT, jnp.ones((1, 2)), 5, 2
  )
  value, gradient = jax.value_and_grad(f)(head_VD)
  np.testing.assert_allclose(value, 1000)
  np.testing.assert_allclose(gradient[:5, 0], [0, 0, 0, 1000, -1000])


MODELS = {
  'GPT-2': {'loss_chunk': 0},
  'chunks': {'loss_chunk': 4},
  'no bias': {'bias': False},
  'GPT-1': {'norm': 'post', 'activation': 'gelu', 'dropout_wte': True, 'dropout': 0.2},
  'untied': {'tied': False, 'qkv_bias': False, 'dropout': 0.2},
  'wide': {'mup_base': 16, 'mup_base_N': 2},
  'scan': {'scan': True, 'remat': 'block'},
}


def updated(fields, dtype, **form):
  """Returns the tree of a state after an update, its metrics, and the momentum.

  Args:
    form: fields of `Execution`.
  """
  fields = dict(fields)
  run = config.Run(batch=8, loss_chunk=fields.pop('loss_chunk', 0))
  run.model = config.Model(L=2, D=32, N=4, T=8, dtype=dtype, **fields)
  run.optim = config.Optim(name='adamw', lr=1e-3, warmup=0, clip=0.1)
  cfg = GPTConfig.of(run.model, updates.VOCAB)
  params = init_params(cfg, 0)
  params = jax.tree.map(
    lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape), params
  )
  batch = jax.tree.map(lambda leaf: leaf[None], updates.ragged_batch())
  how = Execution.of(run.model, jax.devices()[:1])
  gpt = GPT(cfg, dataclasses.replace(how, **form))
  state = step.init_state(run, params, cfg.width)
  new, metrics = jax.jit(
    lambda state: step.train_step(
      state,
      {},
      batch,
      optim.Hyper.of(run),
      objective=LanguageModeling.of(run, gpt),
      choices=run.optim,
    )
  )(state)
  mu = next(s.mu for s in new.opt_state if hasattr(s, 'mu'))
  assert metrics['grad_norm'] > 2 * run.optim.clip  # so that clipping acts
  return jax.tree.structure(new), metrics, mu


@pytest.mark.parametrize('dtype, share', [('float32', 2e-5), ('bfloat16', 4e-2)])
@pytest.mark.parametrize('name', MODELS)
def test_an_update_is_that_of_the_plain_form(name, dtype, share):
  """Loss, gradient (as momentum), parameters and their norm; the same tree of state."""
  results = [updated(MODELS[name], dtype, fused=form) for form in (True, False)]
  assert results[0][0] == results[1][0]
  assert_near(results[0][1], results[1][1], share)
  whole = [
    jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(mu)])
    for _, _, mu in results
  ]
  assert_near(*whole, share)
  if dtype == 'float32':
    # Each by itself; keys' biases have no gradient but rounding.
    for tree in results:
      for layer in ('h_0', 'h_1'):
        tree[2][layer]['attn']['k'].pop('bias', None)
    assert_near(results[0][2], results[1][2], 1e-4)


def test_gradients_in_few_arrays_are_the_same_and_their_norm():
  a, b, c, d = draws((3,), (4, 5), (2,), (2, 3, 4))
  tree = {'a': a, 'b': {'c': b, 'd': c}, 'e': d}
  new, norm = jax.jit(optim.in_few_arrays)(tree)
  jax.tree.map(np.testing.assert_array_equal, new, tree)
  flat = np.concatenate([np.ravel(leaf) for leaf in (a, b, c, d)])
  np.testing.assert_allclose(norm, np.linalg.norm(flat), rtol=1e-6)
  only = {'b': b}  # no vectors
  new, norm = optim.in_few_arrays(only)
  np.testing.assert_allclose(norm, np.linalg.norm(b), rtol=1e-6)


def test_the_form_is_chosen_for_the_devices_and_written_gradients():
  def chosen(platform, **fields):
    device = types.SimpleNamespace(platform=platform, compute_capability='9.0')
    return Execution.of(config.Model(**fields), [device]).fused

  assert chosen('gpu') and chosen('gpu', dtype='bfloat16')
  assert not chosen('gpu', gradients='plain')  # which jax.jvp needs
  assert not chosen('cpu') and not chosen('tpu')
  assert not Execution.of(config.Model(), []).fused


def test_evaluation_reads_float32_logits():
  cfg = GPTConfig.of(config.Model(L=1, D=16, N=2, T=8, dtype='bfloat16'), 11)
  params, batch = init_params(cfg, 0), updates.ragged_batch()
  params = jax.tree.map(lambda p: 5 * p, params)
  gpt = GPT(cfg, Execution(dtype='bfloat16', fused=True))
  objective = LanguageModeling(gpt)
  exact = objective.nll_sum(params, batch)
  assert exact != objective.nll_sum(params, batch, narrow=True)
  x, _ = gpt.apply({'params': params}, batch.ids_BT)
  logits = x.astype(jnp.float32) @ params['wte'].astype('bfloat16').T
  logits = jnp.where(jnp.arange(128) < 11, logits, -jnp.inf)
  wanted = loss.nll_sum(logits, batch.y_BT, batch.w_BT)
  np.testing.assert_allclose(exact, wanted, rtol=1e-6)


def test_a_text_is_explained_whatever_the_form():
  cfg = GPTConfig.of(config.Model(L=2, D=16, N=2, T=8), 11)
  params, ids = init_params(cfg, 0), [0, 3, 4, 5]
  one, other = (
    introspection.explained(params, GPT(cfg, Execution(fused=form)), ids, 'abcd')
    for form in (True, False)
  )
  np.testing.assert_array_equal(one.attention, other.attention)


@pytest.mark.parametrize('stored', ['lora', 'int8', 'int4', 'transposed'])
def test_layers_that_are_more_than_a_kernel_keep_their_form(stored):
  cfg = GPTConfig.of(config.Model(L=1, D=16, N=2, T=8), 11)
  params, ids = init_params(cfg, 0), updates.ragged_batch().ids_BT
  variables = {'params': params}
  if stored == 'lora':
    change = lora.init(params, 2, jax.random.key(1))
    variables['lora'] = jax.tree.map(lambda leaf: leaf + 0.1, change)
  else:
    make = {
      'int8': quantize.quantized,
      'int4': partial(quantize.quantized, bits=4),
      'transposed': quantize.transposed,
    }
    variables['params'] = make[stored](params)
  one, other = (
    GPT(cfg, Execution(fused=form)).apply(variables, ids)[0] for form in (True, False)
  )
  assert_near(one, other, 1e-5)
  if stored != 'transposed':  # they do change what is computed
    without, _ = GPT(cfg).apply({'params': params}, ids)
    assert not np.allclose(one, without, atol=1e-6)


def test_the_plan_of_a_run_says_the_form_and_its_logits(monkeypatch):
  run = config.Run(batch=8, accumulate=2, steps=1)
  run.model = config.Model(L=1, D=16, N=2, T=64, dtype='bfloat16')
  cfg, layout = (
    GPTConfig.of(run.model, 1000),
    sharding.Layout.of(run, jax.devices()[:1]),
  )
  sizes = {'tokens': 100, 'held_out': 10, 'bytes_per_token': 1.0}
  assert '\nform ' not in cost_tables.plan(run, cfg, layout, **sizes)
  how = lambda self, model: Execution(fused=True)  # noqa: E731
  monkeypatch.setattr(sharding.Layout, 'execution', how)
  # 4 rows of 64 positions and 1,024 logits of 2 bytes
  assert '0 MiB of bfloat16 logits' in cost_tables.plan(run, cfg, layout, **sizes)
  run.model.dtype, cfg = 'float32', dataclasses.replace(cfg, vocab=8 * 1024)
  assert '8 MiB of float32 logits' in cost_tables.plan(run, cfg, layout, **sizes)
  run.loss_chunk = 16
  assert '2 MiB of float32 logits' in cost_tables.plan(run, cfg, layout, **sizes)
