"""What a compiled update takes, against counts by hand and what `describe` says."""

import dataclasses
import os
import pathlib
import re
import subprocess
import sys
from unittest import mock

import jax
import pytest
import tiny_task
from scripts import launch
from updates import make_run

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.decoding import beam, sampling
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.programs import roofline
from gpt_jax.runs import (
  cost,
  dry_run,
  dry_run_model,
  finetune,
  finetune_job,
  load,
  on_paper,
)
from gpt_jax.training import reduction, sharding

ROOT = pathlib.Path(__file__).resolve().parent.parent


def cost_of(layout, whole=False, **fields):
  run = make_run(layout=layout, model_D=64, model_T=16, model_dropout=0.0, **fields)
  run.optim = config.Optim()
  cfg = GPTConfig.of(run.model, 120)
  lay = dataclasses.replace(sharding.Layout.of(run), whole=whole)
  foretold = cost.communication_bytes(run, cfg, lay)
  return dry_run.compiled_cost(run, cfg, lay), foretold, run, cfg


def test_the_parts_of_an_update_are_its_arguments():
  for layout in ('data=2,fsdp=4', ''):
    run = make_run(layout=layout, devices=0 if layout else 1, model_D=64)
    run.optim = config.Optim()
    cfg = GPTConfig.of(run.model, 120)
    lay = sharding.Layout.of(run)
    program = dry_run.update_of(run, cfg, lay)
    taken = dry_run.cost_of(on_paper.compiled(program.lowered))
    state = cost.state_bytes(run, cfg, lay)
    assert program.held['parameters'] == state['parameters']
    assert program.held['optimizer'] == pytest.approx(state['optimizer'], abs=8)
    rows = 8 // lay.parts
    assert program.held['batch'] == rows * (3 * 4 * cfg.T + 4)
    numbers = taken.state - sum(program.held.values())  # rates and other scalars
    assert 0 < numbers < 100
    assert program.tokens == 8 * cfg.T


@pytest.mark.parametrize('scan', [False, True])
def test_fsdp_gathers_parameters_twice_and_no_activations(scan):
  found, foretold, _, _ = cost_of('fsdp=8', model_scan=scan)
  gathered = foretold['parameters, gathered over fsdp']
  # A CPU sums gradients whole where other devices scatter the sum.
  summed = 2 * foretold['gradients, scattered over fsdp']
  assert found.sent['all-gather'] == pytest.approx(gathered, rel=0.15)
  assert found.sent['all-reduce'] == pytest.approx(summed, rel=0.15)


@pytest.mark.parametrize('layout', ['fsdp=8', 'data=2,fsdp=4'])
def test_a_loss_in_chunks_sums_the_gradients_of_the_head_once(layout, monkeypatch):
  monkeypatch.setattr(reduction, 'SUMMED_IN_TURNS', ())  # as on GPUs and TPUs
  found, _, _, _ = cost_of(layout, loss_chunk=4)
  at_once, _, _, _ = cost_of(layout)
  kept = {kind: size for kind, size in at_once.sent.items() if size > 1000}
  assert kept
  for kind, size in kept.items():
    assert found.sent[kind] == pytest.approx(size, rel=0.05)


@pytest.mark.parametrize('layout', ['data=4', 'fsdp=4', 'data=2,fsdp=2'])
def test_micro_batches_send_what_one_batch_sends(layout):
  found, foretold, _, _ = cost_of(layout, whole=True, accumulate=2)
  wanted = sum(foretold.values())
  assert wanted <= sum(found.sent.values()) <= 1.15 * wanted
  # A sum over `data` is a scatter, and a gather of what each device then updates.
  gathered = foretold['parameters, gathered over fsdp']
  gathered += foretold['gradients, summed over data'] / 2
  assert found.sent['all-gather'] == pytest.approx(gathered, rel=0.15)
  once, _, _, _ = cost_of(layout, whole=True)
  assert found.sent == pytest.approx(once.sent, rel=0.001)


def test_gradients_are_sent_once_where_all_of_them_fit():
  run = make_run(layout='fsdp=8', model_D=64, model_T=16)
  cfg = GPTConfig.of(run.model, 120)
  layout = sharding.Layout.of(run)
  whole, chosen = cost.scheduled(run, cfg, layout, 2**30)
  assert whole.once and str(chosen) == (
    'once an update: with all weights and gradients a device has 0.0 of 1.0 GiB filled'
  )
  params = 4 * cost.parameter_count(cfg)
  for limit, why in [(2 * params, 'GiB filled'), (0, 'is not known')]:
    same, chosen = cost.scheduled(run, cfg, layout, limit)
    assert same == layout and not same.once
    assert str(chosen).startswith('by layer and micro-batch') and why in str(chosen)
  run.layout = 'data=8'
  assert cost.scheduled(run, cfg, sharding.Layout.of(run), 0)[1].once
  assert (
    cost.scheduled(run, cfg, sharding.Layout(tuple(jax.devices()[:1])), 0)[1] is None
  )


def test_tensor_sums_activations_and_data_gradients():
  found, foretold, run, cfg = cost_of('data=4,tensor=2', model_L=4)
  wanted = sum(foretold.values())
  assert sum(found.sent.values()) == pytest.approx(wanted, rel=0.2)
  # Of the gradients' sum half is scattered and half gathered again; activations are
  # summed whole.
  half = foretold['gradients, summed over data'] / 2
  for kind in ('reduce-scatter', 'all-gather'):
    assert found.sent[kind] == pytest.approx(half, rel=0.1)
  summed = found.sent['all-reduce'] - foretold['activations, summed over tensor']
  assert 0 <= summed <= 0.4 * half
  state = cost.state_bytes(run, cfg, sharding.Layout.of(run))
  held = state['parameters'] + state['optimizer']
  assert found.state == pytest.approx(held, rel=0.05)


def test_the_first_change_is_to_what_takes_most():
  def advised(state, working, layout='', **fields):
    run = make_run(layout=layout, devices=0 if layout else 2, **fields)
    run.batch = 16
    cfg = GPTConfig.of(run.model, 11)
    found = dry_run.Cost(state, working, {}, {})
    return dry_run.advice(run, cfg, sharding.Layout.of(run), found)

  assert 'layout=fsdp' in advised(2, 1)
  assert 'more devices' in advised(2, 1, 'fsdp=8')
  logits = 8 * 8 * 128 * 4
  assert 'loss_chunk=1,' in advised(1, 2 * logits)
  assert 'remat=block' in advised(1, 100 * logits)
  assert 'accumulate=2,' in advised(1, 100 * logits, model_remat='block')
  assert 'tensor' in advised(1, 2**40, accumulate=8, model_remat='block')


@pytest.fixture
def devices_there(monkeypatch):
  """The devices of the tests: jax has begun, and can simulate no others."""
  monkeypatch.setattr(sharding, 'real_or_simulated', lambda number: jax.devices())


def test_a_fine_tuning_is_compiled_for_its_longest_batch(task_place, devices_there):
  said = dry_run.report(tiny_task.make(task_place, batch=8), '')
  assert ', jit, 2 of 2 seeds together, 8 examples of 1 x 16 tokens; not run' in said
  assert 'To make it smaller: --config.task.together=1' in said

  # Where memory is short, fewer seeds train together, as `train` has it.
  job = finetune_job.read_job(tiny_task.make(task_place), print)
  one, two = (finetune.bytes_needed(job, seeds) / 2**30 for seeds in (1, 2))
  said = dry_run.report(tiny_task.make(task_place), '', (one + two) / 2)
  assert '2 seeds together need' in said and '1 of 2 seeds together' in said
  assert 'fits      in' in said
  said = dry_run.report(tiny_task.make(task_place), '', one / 2)
  assert 'First change: --config.loss_chunk=6,' in said
  lora = tiny_task.make(task_place, task__train='lora', task__aux=0.0)
  said = dry_run.report(lora, '', one / 20)
  assert 'First change: --config.model.remat=block, which' in said
  together = tiny_task.make(task_place, task__together=2)
  said = dry_run.report(together, '', one)
  assert 'not in' in said and 'First change: --config.task.together=1,' in said


def test_a_fine_tuning_over_a_layout_sends_its_gradients(task_place, devices_there):
  run = tiny_task.make(task_place, devices=0, layout='data=2')
  said = dry_run.report(run, '')
  assert 'data 2, 1 of 2 seeds together' in said and 'reduce-scatter' in said
  job = finetune_job.read_job(run, print)
  found = dry_run.cost_of(finetune.lowered(job, 1).compile())
  trained = sum(cost.trained_by_part(job.run, job.cfg).values())
  # Scattered and gathered; more than is trained for the vocabulary's padding.
  assert 4 * trained < sum(found.sent.values()) < 8 * trained
  assert found.sent['reduce-scatter'] == pytest.approx(
    found.sent['all-gather'], rel=0.01
  )


def test_launch_compiles_for_devices_that_are_not_there(tmp_path):
  # Of the machine's own number of devices.
  flags = os.environ['XLA_FLAGS'].replace('device_count=8', 'device_count=1')
  done = subprocess.run(
    [sys.executable, str(ROOT / 'launch.py'), 'train', '--dry_run']
    + [f'--config={ROOT}/experiments/quickstart.py', f'--workdir={tmp_path}/none']
    + ['--config.layout=data=2,fsdp=6', '--config.batch=12', '--device_gib=0.001']
    + ['--config.model.L=1', '--config.model.D=48', '--config.optim.name=adamw'],
    capture_output=True,
    text=True,
    env={'XLA_FLAGS': flags, 'PATH': ''},
  )
  assert done.returncode == 0, done.stderr
  assert 'compiled for 12 x cpu, data 2 x fsdp 6; not run' in done.stdout
  assert 'fits      not in 1.02 MiB. First change:' in done.stdout
  assert not (tmp_path / 'none').exists()
  assert len(jax.devices()) == 8


class Refused:
  """A program that the compiler of a TPU refuses."""

  def __init__(self, why: str):
    self.why = why

  def compile(self):
    raise jax.errors.JaxRuntimeError(self.why)


@pytest.mark.parametrize(
  'why, gib',
  [
    (
      'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.31G of '
      '15.75G hbm. Exceeded hbm capacity by 4.56G.',
      20.31,
    ),
    (
      'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO '
      'temporaries (32.00G) exceeds available HBM (15.75G).',
      32,
    ),
  ],
)
def test_what_a_compiler_refuses_is_a_size(why, gib):
  with pytest.raises(on_paper.TooLarge, match=f'it takes {gib:.2f} GiB') as error:
    on_paper.compiled(Refused(why))
  assert error.value.needed == gib * 2**30


def test_another_failure_of_a_compiler_stays_what_it_is():
  with pytest.raises(jax.errors.JaxRuntimeError, match='INTERNAL'):
    on_paper.compiled(Refused('INTERNAL: no 3.00G of anything'))


def test_memory_is_said_by_part_and_what_jax_takes_of_a_gpu(monkeypatch):
  held = {'parameters': 3 * 2**20, 'batch': 2**10}
  program = on_paper.Program('update', None, held, 1)
  exact = on_paper.Memory(sum(held.values()), 2**30)
  assert on_paper.memory_line(program, exact) == (
    'memory    1.00 GiB each: 3.00 MiB parameters, 1.00 KiB batch, 1.00 GiB temporaries'
  )
  padded = exact._replace(arguments=exact.arguments + 2**25)
  assert ', 32.00 MiB padding, 1.00 GiB temp' in on_paper.memory_line(program, padded)

  gpu, tpu = (mock.Mock(platform=platform) for platform in ('gpu', 'tpu'))
  monkeypatch.delenv('XLA_PYTHON_CLIENT_MEM_FRACTION', raising=False)
  assert on_paper.room('h100:8', gpu)[0] == 0.75 * roofline.DEVICES['h100'].memory
  monkeypatch.setenv('XLA_PYTHON_CLIENT_MEM_FRACTION', '.9')
  assert on_paper.room('h100:8', gpu)[0] == 0.9 * roofline.DEVICES['h100'].memory
  assert on_paper.room('v5e:2x2', tpu) == (2**34, '16.00 GiB')


@pytest.mark.parametrize(
  ('platform', 'fields', 'weights', 'said'),
  [
    ('gpu', {}, '', 'fused: bfloat16 on gpu'),
    ('gpu', {'dtype': 'float32'}, '', 'plain: the kernels need bfloat16'),
    (
      'tpu',
      {},
      'int8',
      'plain: no kernels for a token on tpu; int8 by mosaic: the small bytes are read '
      'on tpu',
    ),
  ],
)
def test_how_a_token_is_read_is_said_and_why(platform, fields, weights, said):
  devices = [mock.Mock(platform=platform, compute_capability='9.0')]
  model = config.Model(**{'D': 32, 'N': 2, 'dtype': 'bfloat16'} | fields)
  line = dry_run_model.token_line(model, devices, weights)
  assert line == f'a token   {said}'


def test_on_is_refused_where_it_would_say_nothing(tmp_path, task_place):
  train = ['train', f'--config={ROOT}/experiments/quickstart.py', '--workdir=w']
  said = launch(tmp_path, *train, '--on=h100').stderr
  assert 'trains on none; add --dry_run' in said
  said = launch(tmp_path, 'eval', '--workdir=w', '--on=h100', '--tasks=rte').stderr
  assert '--tasks says nothing to `eval --on`' in said
  said = launch(tmp_path, 'sample', '--workdir=w', '--on=h100', '--stream').stderr
  assert '--stream says nothing to `sample --on`' in said
  run = tiny_task.make(task_place)
  with pytest.raises(UserError, match='in a layout only; add --config.layout=data'):
    dry_run.report(run, on='h100:8')


def test_the_shapes_of_a_workdir_are_those_of_its_model(task_place):
  device = jax.devices()[1]
  there, here = load.load(task_place / 'base'), load.shapes(task_place / 'base', device)
  assert here.config == there.config and here.ends == there.ends
  pairs = zip(*map(jax.tree.leaves, (there.params, here.params)), strict=True)
  assert all((a.shape, a.dtype) == (b.shape, b.dtype) for a, b in pairs)
  assert {x.sharding.device_set.pop() for x in jax.tree.leaves(here.params)} == {device}


def computed(program: jax.stages.Lowered) -> str:
  """Returns the StableHLO of a program without where its arrays are."""
  lines = program.as_text().splitlines()
  kept = '\n'.join(line for line in lines if 'sdy.mesh' not in line)
  return re.sub(r' (attributes )?\{[^{}]*\}', '', re.sub(r'#sdy\S*<.*?>', '', kept))


@pytest.mark.parametrize(
  'settings',
  [
    {'temperature': 0.0},
    {'seed': 1, 'top_k': 5, 'repetition_penalty': 1.2, 'num_return': 2},
    {'beams': 3, 'eos': [256, 5]},
    {'beams': 4, 'groups': 2, 'stop': 'x'},
  ],
)
def test_the_programs_of_decoding_are_those_that_it_runs(
  task_place, monkeypatch, settings
):
  model, prompts = load.load(task_place / 'base'), [[1, 2], [3]]
  settings = {'max_new_tokens': 4} | settings
  whole = sharding.Layout((jax.devices()[0],)).whole_shapes
  lowered = model.lowered(prompts, whole, **settings)
  wanted = {computed(program) for program, _ in lowered.values()}
  rows = len(prompts) * settings.get('num_return', 1)
  assert {number for _, number in lowered.values()} == {rows}
  ran = set()

  def noted(module, name):
    program = getattr(module, name)

    def run(*arrays, **static):
      ran.add(computed(program.lower(*arrays, **static)))
      return program(*arrays, **static)

    monkeypatch.setattr(module, name, run)

  noted(sampling, 'compiled_begin')
  noted(sampling, 'compiled_run')
  noted(beam, 'compiled_search')
  model.generate_ids(prompts, **settings)
  assert ran == wanted and len(ran) == (1 if 'beams' in settings else 2)


def test_beams_that_are_drawn_are_not_compiled_for_absent_devices(task_place):
  model = load.load(task_place / 'base')
  with pytest.raises(UserError, match='not compiled for absent devices; use beam'):
    model.lowered([[1]], lambda tree: tree, beams=2, method='stochastic')
