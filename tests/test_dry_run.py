"""What a compiled update takes, against counts by hand and what `describe` says."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import jax
import pytest
import tiny_task
from updates import make_run

from gpt_jax import config
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.runs import cost, dry_run, finetune, finetune_job
from gpt_jax.training import sharding

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Lines as XLA writes them.
# ruff: noqa: E501
PROGRAM = """
%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %s = f32[] add(%a, %b)
}

%body (t: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %g = bf16[4,8]{1,0} all-gather(%x), replica_groups=[2,4]<=[8], dimensions={0}
  %p = f32[4,8]{1,0} collective-permute(%y), source_target_pairs={{0,1},{1,0}}
}

ENTRY %main (x: f32[4,8]) -> f32[4,8] {
  %w = (s32[], f32[4,8]) while(%t), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %r = (f32[10]{0}, s32[]) all-reduce(%a, %b), replica_groups={{0,1},{2,3}}, to_apply=%add
  %z = f32[6]{0} reduce-scatter(%a), replica_groups=mesh['axis_0'=2,'axis_1'=3], device_ids=([6]) {'axis_1'}, to_apply=%add
}
"""


def test_communication_is_counted_by_groups_sizes_and_turns_of_loops():
  sent, operations = dry_run.communication(PROGRAM)
  assert sent == {
    'all-gather': 3 * 64 * 3 / 4,
    'collective-permute': 3 * 128,
    'all-reduce': 44 * 2 * 1 / 2,
    'reduce-scatter': 24 * 2,
  }
  assert operations == {
    'all-gather': 3,
    'collective-permute': 3,
    'all-reduce': 1,
    'reduce-scatter': 1,
  }


def test_a_new_way_to_write_groups_is_no_wrong_number():
  with pytest.raises(ValueError, match='a new way'):
    dry_run.communication(PROGRAM.replace('{{0,1},{2,3}}', 'all'))


def cost_of(layout, whole=False, **fields):
  run = make_run(layout=layout, model_D=64, model_T=16, model_dropout=0.0, **fields)
  run.optim = config.Optim()
  cfg = GPTConfig.of(run.model, 120)
  lay = dataclasses.replace(sharding.Layout.of(run), whole=whole)
  foretold = cost.communication_bytes(run, cfg, lay)
  return dry_run.compiled_cost(run, cfg, lay), foretold, run, cfg


@pytest.mark.parametrize('scan', [False, True])
def test_fsdp_gathers_parameters_twice_and_no_activations(scan):
  found, foretold, _, _ = cost_of('fsdp=8', model_scan=scan)
  gathered = foretold['parameters, gathered over fsdp']
  # A CPU sums gradients whole where other devices scatter the sum.
  summed = 2 * foretold['gradients, scattered over fsdp']
  assert found.sent['all-gather'] == pytest.approx(gathered, rel=0.15)
  assert found.sent['all-reduce'] == pytest.approx(summed, rel=0.15)


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
  # summed whole, and so is `wte`, whose rows `tensor` divides.
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
  found = dry_run.cost_of(finetune.compiled(job, 1))
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
