"""Layouts over 8 simulated devices equal one device, however the step is computed."""

import dataclasses
import itertools
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import updates
from jax.sharding import PartitionSpec as P

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.model import kernels
from gpt_jax.model.gpt import init_params
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.runs import evaluate, train
from gpt_jax.runs.load import load
from gpt_jax.training import (
  loss,
  members,
  metrics_log,
  optim,
  reduction,
  saved,
  sharding,
  step,
)

# Sums of float32 gradients in another order.
SAME = {'rtol': 1e-5, 'atol': 1e-5}

LAYOUTS = '', 'data', 'fsdp', 'data=4,tensor=2', 'data=2,fsdp=2,tensor=2'
# How a step may be computed: in micro-batches, keeping less, in a loop over the layers,
# with the logits of few positions at a time.
WAYS = {
  'accumulate': (1, 2),
  'remat': ('none', 'block'),
  'scan': (False, True),
  'loss_chunk': (0, 4),
}


def pairs(case):
  return set(itertools.combinations(zip(['layout', *WAYS], case, strict=True), 2))


def pairwise(cases):
  """Returns cases in which every pair of values meets."""
  chosen, missing = [], set().union(*map(pairs, cases))
  while missing:
    chosen.append(max(cases, key=lambda case: len(pairs(case) & missing)))
    missing -= pairs(chosen[-1])
  return chosen


# `make layouts` runs all of them.
CASES = list(itertools.product(LAYOUTS, *WAYS.values()))
if not os.environ.get('GPT_JAX_ALL_LAYOUTS'):
  CASES = pairwise(CASES)


def run_of(layout, accumulate=1, remat='none', scan=False, loss_chunk=0):
  cut = 'tensor' in layout  # the rows are then in fewer parts than there are devices
  return updates.make_run(
    layout=layout,
    devices=8 if cut else 8 // accumulate,
    accumulate=accumulate,
    loss_chunk=loss_chunk,
    model_remat=remat,
    model_scan=scan,
  )


@pytest.fixture(scope='module')
def one_device():
  run = run_of('')
  run.devices = 1
  return updates.trained(run)


@pytest.mark.parametrize('case', CASES, ids=lambda case: '-'.join(map(str, case)))
def test_a_layout_equals_one_device(one_device, case):
  params, losses = updates.trained(run_of(*case))
  np.testing.assert_allclose(losses, one_device[1], **SAME)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, **SAME), params, one_device[0]
  )


@pytest.mark.parametrize(
  ('layout', 'scan'),
  [('fsdp', False), ('data=2,fsdp=2', True), ('data=2,fsdp=2,tensor=2', False)],
)
def test_weights_gathered_once_equal_one_device(one_device, layout, scan):
  run = run_of(layout, accumulate=2, remat='block' if scan else 'none', scan=scan)
  params, losses = updates.trained(run, whole=True)
  np.testing.assert_allclose(losses, one_device[1], **SAME)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, **SAME), params, one_device[0]
  )


def test_weights_sent_in_bfloat16_have_float32_gradients_of_those_that_were_not():
  run = updates.make_run(devices=1, model_dtype='bfloat16')
  cfg = GPTConfig.of(run.model, updates.VOCAB)
  params = init_params(cfg, 0)
  sent = jax.tree_util.tree_map_with_path(
    lambda path, leaf: leaf.astype(reduction.compute_dtype(path, leaf, 'bfloat16')),
    params,
  )
  assert sent['h_0']['mlp']['up']['kernel'].dtype == 'bfloat16'
  assert {leaf.dtype.name for leaf in jax.tree.leaves(sent)} == {'float32', 'bfloat16'}
  batch = jax.tree.map(lambda leaf: leaf[None], updates.ragged_batch())
  hp, objective = optim.Hyper.of(run), updates.objective_of(run, cfg)
  mean = jax.jit(partial(step.mean_gradients, objective=objective))
  found, wanted = (mean(tree, {}, batch, hp, 0)[1] for tree in (sent, params))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, wanted)
  assert all(leaf.dtype == 'float32' for leaf in jax.tree.leaves(found))


@pytest.fixture(scope='module')
def one_device_adamw():
  return adamw_losses('', 1)


def adamw_losses(layout, devices):
  run = updates.make_run(layout=layout, devices=devices, model_L=1)
  run.optim = config.Optim(lr=1e-2, warmup=5)
  run.steps = 50
  return updates.trained(run, 50, lambda i: updates.ragged_batch(i % 2))[1]


@pytest.mark.parametrize('layout', LAYOUTS)
def test_curves_of_adamw_agree(one_device_adamw, layout):
  losses = adamw_losses(layout, 8)
  np.testing.assert_allclose(losses, one_device_adamw, rtol=0, atol=1e-3)
  assert losses[-1] < losses[0] - 0.1  # it does learn


@pytest.fixture(scope='module')
def one_device_muon():
  return muon_updates('', 1)


def muon_updates(layout, devices):
  run = updates.make_run(
    layout=layout, devices=devices, accumulate=2, model_dropout=0.0
  )
  run.optim = config.Optim(name='muon', lr=1e-2, schedule='constant', warmup=0)
  return updates.trained(run, 2)


@pytest.mark.parametrize(
  ('layout', 'devices'),
  [('data=4', 4), ('data=2,fsdp=2,tensor=2', 8), ('data=2,context=2', 4)],
)
def test_muon_over_devices_is_that_of_one(one_device_muon, layout, devices):
  params, losses = muon_updates(layout, devices)
  np.testing.assert_allclose(losses, one_device_muon[1], **SAME)
  for a, b in zip(*map(jax.tree.leaves, (params, one_device_muon[0])), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=5e-5)


def lowered(run, vocab):
  layout, cfg = sharding.Layout.of(run), GPTConfig.of(run.model, vocab)
  program = members.Alone.of(run, cfg, layout)
  ids = np.zeros((run.batch, cfg.T), np.int32)
  batch = program.put([updates.Batch(ids, ids, ids.astype('f'), ids[:, 0])])
  return program.jitted.lower(program.like, {}, batch, program.hp), program.like


def test_fsdp_holds_an_eighth_of_parameters_and_optimizer_state():
  run = config.Run(batch=8, layout='fsdp=8')
  run.model = config.Model(L=2, D=128, N=2, T=16)
  program, state = lowered(run, 500)
  held = program.compile().memory_analysis().argument_size_in_bytes
  whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
  batch = 4 * (3 * 16 + 1)  # a row of ids, targets and weights, and its number
  assert held - batch <= 1.15 / 8 * whole
  assert held - batch >= whole / 8


def test_data_parallel_devices_hold_a_part_of_the_optimizer_state_each():
  run = config.Run(batch=8, layout='data=8')
  run.model = config.Model(L=2, D=128, N=2, T=16)
  program, state = lowered(run, 500)
  held = program.compile().memory_analysis().argument_size_in_bytes
  size = lambda tree: sum(4 * x.size for x in jax.tree.leaves(tree))  # noqa: E731
  batch = 4 * (3 * 16 + 1)
  wanted = size(state.params) + size(state.opt_state) / 8
  assert wanted <= held - batch <= 1.02 * wanted


def test_chunks_of_the_loss_more_than_halve_the_peak_of_memory():
  peaks = []
  for loss_chunk in (0, 64):
    run = config.Run(batch=2, loss_chunk=loss_chunk, devices=1)
    run.model = config.Model(L=1, D=64, N=2, T=1024)
    program, _ = lowered(run, 50257)
    peaks.append(program.compile().memory_analysis().temp_size_in_bytes)
  assert peaks[1] < peaks[0] / 2


def test_what_does_not_divide_stays_whole():
  layout = sharding.Layout.of(config.Run(layout='fsdp=8'))
  cfg = GPTConfig.of(config.Model(L=1, D=12, N=2, T=3), 200)
  specs = jax.tree.map(
    lambda s: s.sharding.spec,
    layout.placed(jax.eval_shape(lambda: init_params(cfg, 0))),
  )
  axes = lambda spec: {axis for axis in spec if axis}  # noqa: E731
  assert axes(specs['wte']) == {('tensor', 'fsdp')}  # 256 rows
  assert not axes(specs['wpe']) and not axes(specs['h_0']['ln_1']['scale'])
  assert axes(specs['h_0']['mlp']['down']['kernel']) == {'tensor'}


def test_optimizer_states_go_where_their_parameters_go():
  run = config.Run(layout='fsdp=4,tensor=2')
  run.model = config.Model(L=1, D=16, N=2, T=4)
  layout, cfg = sharding.Layout.of(run), GPTConfig.of(run.model, 100)
  for name_of in ('adamw', 'muon'):
    run.optim.name = name_of
    run.optim.ema = 0.9
    state = layout.state_shapes(lambda: step.new_state(run, cfg))
    wanted = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
      wanted[tuple(k.key for k in path)] = leaf.sharding.spec
    found = 0
    rest = (state.opt_state, state.ema)
    for path, leaf in jax.tree_util.tree_leaves_with_path(rest):
      names = [k.key for k in path if isinstance(getattr(k, 'key', None), str)]
      for name in wanted:
        if names[-len(name) :] == list(name):
          assert leaf.sharding.spec == wanted[name], names
          found += 1
    # Two moments of Adam, one of Muon for the 6 kernels, and the average.
    assert found == 3 * len(wanted) - (6 if name_of == 'muon' else 0)


def test_a_state_is_made_and_gathered_as_on_one_device():
  run = run_of('data=2,fsdp=2,tensor=2')
  layout, cfg = sharding.Layout.of(run), GPTConfig.of(run.model, 11)
  state = layout.new_state(lambda: step.new_state(run, cfg))
  kernel = state.params['h_0']['mlp']['up']['kernel']
  assert {s.data.shape for s in kernel.addressable_shards} == {(8, 32)}
  whole = layout.gathered(state.params)
  assert len(whole['wte'].devices()) == 1
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7),
    whole,
    jax.jit(lambda: step.new_state(run, cfg).params)(),
  )


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'layout': 'data=3,fsdp=2', 'devices': 8}, 'must be a product of data, fsdp'),
    ({'layout': 'rows'}, "layout='rows' must be a product"),
    ({'layout': 'data,fsdp'}, 'at most one number left out'),
    ({'layout': 'data=0'}, "layout='data=0' must be a product"),
    ({'layout': 'data=9'}, '9 devices are asked for but there are 8'),
    ({'layout': 'tensor=8'}, 'tensor=8 must divide model.N=2'),
  ],
)
def test_a_layout_that_does_not_fit_is_refused(fields, message):
  with pytest.raises(UserError, match=message):
    run = updates.make_run(**fields)
    sharding.Layout.of(run).check(GPTConfig.of(run.model, 11))


def test_the_rest_of_the_devices_go_to_the_axis_without_a_number():
  def sizes(text):
    mesh = sharding.Layout.of(config.Run(layout=text)).mesh
    return {axis: size for axis, size in mesh.shape.items() if size > 1}

  assert sizes('fsdp') == {'fsdp': 8}
  assert sizes('data=2,tensor') == {'data': 2, 'tensor': 4}
  assert sizes('context=2,data') == {'data': 4, 'context': 2}
  assert sizes('data=2') == {'data': 2}


@pytest.mark.parametrize('part', ['fsdp', ('fsdp', 'data')])
def test_a_scatter_over_one_axis_after_the_other_is_that_over_both(part):
  mesh = jax.make_mesh((2, 4), reduction.ROWS, (jax.sharding.AxisType.Auto,) * 2)
  cut = reduction._Cut(P(None, part), P(None, None), P(None, None), None)
  grads = jax.random.normal(jax.random.key(0), (8, 5, 16))

  def summed(each, **how):
    return reduction._summed([each[0]], cuts=[cut], axes=reduction.ROWS, **how)[0]

  both, apart = (
    jax.shard_map(
      partial(summed, one_by_one=one_by_one),
      mesh=mesh,
      in_specs=P(reduction.ROWS),
      out_specs=cut.scattered,
      check_vma=False,
    )(grads)
    for one_by_one in (False, True)
  )
  np.testing.assert_allclose(both, grads.sum(0), rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(apart, both, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('gradients', ['written', 'plain'])
def test_gradients_of_chunks_are_those_of_all_logits(gradients):
  keys = jax.random.split(jax.random.key(0), 4)
  x_BTD = jax.random.normal(keys[0], (3, 8, 5))
  head_VD = jax.random.normal(keys[1], (128, 5))
  y_BT = jax.random.randint(keys[2], (3, 8), 0, 100)
  w_BT = jax.random.uniform(keys[3], (3, 8))

  def whole(x, head):
    logits = jnp.where(jnp.arange(128) < 100, x @ head.T, -jnp.inf)
    return 3 * loss.nll_sum(logits, y_BT, w_BT)

  def chunked(x, head):
    return 3 * loss.chunked_nll_sum(
      x, head, y_BT, w_BT, vocab=100, chunk=2, gradients=gradients
    )

  for a, b in zip(
    jax.tree.leaves(jax.jit(jax.value_and_grad(whole, (0, 1)))(x_BTD, head_VD)),
    jax.tree.leaves(jax.jit(jax.value_and_grad(chunked, (0, 1)))(x_BTD, head_VD)),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)
  np.testing.assert_allclose(chunked(x_BTD, head_VD), whole(x_BTD, head_VD), rtol=1e-6)


def test_a_run_goes_on_in_another_layout_and_its_average_is_what_is_loaded(tmp_path):
  (tmp_path / 'a.txt').write_text('the cat sat on the mat. ' * 200)
  run = updates.make_run(layout='data=2,fsdp=2', steps=4, eval_every=2)
  run.data = config.Data(
    source=str(tmp_path / 'a.txt'), tokenizer='bytes', processes=1, holdout=0.2
  )
  run.optim.ema, run.optim.lr = 0.9, 2.0
  run.sample_tokens, run.prompts = 3, ('the',)
  say_nothing = lambda text: None  # noqa: E731
  train.train(run, tmp_path / 'one', report=say_nothing)
  run.layout, run.devices, run.steps, run.sample_tokens = '', 2, 6, 0
  said = []
  train.train(run, tmp_path / 'one', report=said.append)
  assert 'going on from the checkpoint of update 4' in said
  nll = metrics_log.read_metrics(tmp_path / 'one')[-1]['valid_nll']
  found = evaluate.held_out_metrics(tmp_path / 'one', 'latest', say_nothing)
  assert found['valid_nll'] == pytest.approx(nll, rel=1e-5)
  whole = load(tmp_path / 'one', 'latest').params
  params = saved.restore_params(tmp_path / 'one/checkpoints', 6, whole, averaged=False)
  assert not np.allclose(params['wte'], whole['wte'], atol=1e-4)

  again = dataclasses.replace(run, layout='fsdp=2,tensor=2', devices=0, steps=1)
  again.init_from = str(tmp_path / 'one')
  again.optim = config.Optim(name='sgd', lr=0.0, final_lr=0.0, warmup=0)
  train.train(again, tmp_path / 'two', report=say_nothing)
  best = load(tmp_path / 'one').params
  jax.tree.map(np.testing.assert_array_equal, load(tmp_path / 'two').params, best)


@pytest.mark.parametrize('kernel', ['plain', 'interpret'])
@pytest.mark.parametrize(
  'layout, accumulate', [('context=8', 1), ('data=2,tensor=2,context=2', 2)]
)
def test_tokens_over_devices_equal_one_device(layout, accumulate, kernel, monkeypatch):
  shape = {'model_N': 8, 'model_attention': 'dense,banded', 'model_band': 3}
  wanted = updates.trained(updates.make_run(devices=1, **shape))
  choice = kernels.Choice(kernel, '')
  monkeypatch.setattr(kernels, 'choose', lambda *_, **__: choice)
  run = updates.make_run(layout=layout, accumulate=accumulate, **shape)
  params, losses = updates.trained(run)
  np.testing.assert_allclose(losses, wanted[1], **SAME)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **SAME), params, wanted[0])


def test_a_device_of_a_context_keeps_its_part_of_the_activations():
  run = config.Run(batch=1)
  run.model = config.Model(L=2, D=64, N=8, T=512)
  kept = {}
  for layout in ('data=1', 'context=8'):
    run.layout = layout
    memory = lowered(run, 100)[0].compile().memory_analysis()
    kept[layout] = memory.temp_size_in_bytes
  assert kept['context=8'] < kept['data=1'] / 4


def test_a_context_that_does_not_divide_tokens_and_heads_is_refused():
  run = config.Run(layout='tensor=2,context=4', batch=8)
  run.model = config.Model(L=1, D=16, N=4, T=8)
  cfg = GPTConfig.of(run.model, 11)
  with pytest.raises(UserError, match='context=4 must divide model.T=8, and tensor x'):
    sharding.Layout.of(run).check(cfg)
  run.task.name = 'rte'
  with pytest.raises(
    UserError, match="layout='tensor=2,context=4' must have no context"
  ):
    config.check(run)
