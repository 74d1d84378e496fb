"""Runs trained again from their run.json: the same to the bit, or what differs."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tiny_text

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.runs import provenance, reproduce, train, workdir
from gpt_jax.runs.load import load
from gpt_jax.training import checkpoint, checksums, metrics_log

ROOT = pathlib.Path(__file__).resolve().parent.parent


def tiny(text, **fields):
  run = config.Run(
    steps=20,
    batch=8,
    log_every=2,
    eval_every=10,
    eval_batch=4,
    sample_tokens=0,
    devices=1,
    data=config.Data(source=str(text), tokenizer='chars', holdout=0.2),
    model=config.Model(L=1, D=16, N=2, T=16, dropout=0.1),
    optim=config.Optim(lr=1e-2, final_lr=1e-3, warmup=5),
  )
  for name, value in fields.items():
    setattr(run, name, value)
  return run


def say_nothing(text):
  pass


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """A folder with a text of random words."""
  folder = tmp_path_factory.mktemp('place')
  tiny_text.write(folder)
  return folder


@pytest.fixture(scope='module')
def first(place):
  """A finished run."""
  train.train(tiny(place / 'text'), place / 'first', argv=['x'], report=say_nothing)
  return place / 'first'


@pytest.fixture
def copied(first, tmp_path):
  """That run, to be altered, and the same as one that was trained again."""
  shutil.copytree(first, tmp_path / 'run')
  shutil.copytree(first, tmp_path / 'again')
  return tmp_path / 'run', tmp_path / 'again'


def reproduced(*folders, **kwargs):
  said = []
  same = reproduce.reproduce(*folders, report=said.append, **kwargs)
  return same, '\n'.join(said)


def alter(folder, change):
  path = folder / 'run.json'
  about = json.loads(path.read_text())
  change(about)
  path.write_text(json.dumps(about))


def test_a_manifest_says_what_a_run_was_made_of(first, place):
  about = json.loads((first / 'run.json').read_text())
  (session,) = about['sessions']
  assert session['starts'] == [0] and session['argv'] == ['x']
  assert session['config'] == about['config']
  assert session['environment'].keys() == {
    *('git', 'sources', 'versions', 'python', 'platform', 'cpu', 'devices'),
    *('backend', 'flags'),
  }
  files = sorted(map(str, (place / 'text').iterdir()))
  assert sorted(about['data']['files']) == files


def test_fingerprints_follow_the_losses(first):
  lines = metrics_log.read_checksums(first)
  assert [line['step'] for line in lines] == [10, 20]
  assert lines[0].keys() == {'step', 'losses', 'rest', 'params'}
  for field in ('losses', 'rest', 'params'):
    assert lines[0][field] != lines[1][field]
  # A record that is cut and written again has the same hash of losses.
  values = {
    line['step']: line for line in metrics_log.read_metrics(first) if 'loss' in line
  }
  folder, sums = first.parent / 'record', {'rest': 'x', 'params': {}}
  folder.mkdir()
  for cut in (0, 8, 14):
    written = metrics_log.MetricsLog(folder, cut)
    for step in range(cut + 2, 21, 2):
      written.write(step, {'loss': values[step]['loss']})
    written.write_checksums(20, sums)
    written.close()
  found = metrics_log.read_checksums(folder)
  assert found == [{'step': 20, 'losses': lines[1]['losses'], **sums}]


def test_other_losses_have_another_hash(tmp_path):
  def hashed(*losses, cut=0):
    with contextlib.closing(metrics_log.MetricsLog(tmp_path, cut)) as log:
      for step, loss in losses:
        log.write(step, {'loss': loss, 'lr': 0.5})
      log.write_checksums(9, {'rest': 'x', 'params': {}})
    return metrics_log.read_checksums(tmp_path)[-1]['losses']

  first = hashed((1, 2.0), (2, 1.5))
  assert hashed((2, 1.5000001), cut=1) != first
  assert hashed((2, 1.5), cut=1) == first  # that of update 1 stayed
  assert hashed((1, 2.0), (3, 1.5)) != first


def test_each_part_of_the_data_that_changed_is_named():
  there = dict.fromkeys(reproduce._WORDS, 'a' * 64)
  assert reproduce.data_changes(there, dict(there)) == []
  for name, words in reproduce._WORDS.items():
    assert reproduce.data_changes(there, there | {name: 'b' * 64}) == [
      f'{words}: changed (sha256 aaaaaaaaaaaa there, bbbbbbbbbbbb here)'
    ]
    assert (
      reproduce.data_changes(there, {k: v for k, v in there.items() if k != name}) == []
    )


def test_a_killed_reproduction_goes_on_and_is_the_same(place, first, monkeypatch):
  again, real = place / 'again', checkpoint.Checkpoints.save

  def save(self, state, nll, **more):
    if int(state.step) == 20:
      raise KeyboardInterrupt
    real(self, state, nll, **more)

  with monkeypatch.context() as patched:
    patched.setattr(checkpoint.Checkpoints, 'save', save)
    with pytest.raises(KeyboardInterrupt):
      reproduced(first, again)
  same, said = reproduced(first, again)
  assert same, said
  assert 'going on from the checkpoint of update 10' in said
  assert 'code, packages, flags, devices and data are those of the run' in said
  assert 'bit for bit the same: 10 logged losses' in said
  assert '20 tensors and the state of the optimizer at 2 checkpoints' in said
  ours, theirs = (f / 'fingerprints.jsonl' for f in (first, again))
  assert ours.read_text() == theirs.read_text()
  (session,) = workdir.sessions(again)
  assert session['starts'] == [0, 10]


def test_packages_flags_and_devices_that_differ_are_named(copied):
  def change(about):
    there = about['sessions'][0]['environment']
    there['versions']['optax'] = '0.0.1'
    there['flags']['XLA_FLAGS'] = '--other'
    there['devices'] = ['tpu: TPU v4'] * 2
    about['sessions'][0]['together'] = 3

  alter(copied[0], change)
  same, said = reproduced(*copied)
  assert same  # as nothing was changed in truth
  assert 'differs: package optax: 0.0.1 there' in said
  assert 'differs: flag XLA_FLAGS: --other there' in said
  assert 'from 1 on were trained in one program with 2 other runs' in said
  assert 'differs: devices: 2 (tpu: TPU v4) there, 1 (cpu: cpu) here' in said


def test_what_was_changed_in_a_record_is_found(copied):
  path = copied[1] / 'fingerprints.jsonl'
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  lines[1]['params']['wpe'] = '0' * 16
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  same, said = reproduced(*copied)
  assert not same
  assert 'update 20: 1 of 20 tensors, the first is wpe' in said
  assert 'at update 20 the values of wpe' in said and 'up to 0 apart' in said
  assert 'nothing that is known' in said


@pytest.mark.parametrize(
  ('field', 'words'),
  [('rest', "the optimizer's state"), ('losses', 'losses logged before')],
)
def test_another_optimizer_s_state_or_other_losses_are_found(copied, field, words):
  path = copied[1] / 'fingerprints.jsonl'
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  lines[1][field] = '0' * 16
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  same, said = reproduced(*copied)
  assert not same
  assert f'that of update 20: its tensors are the same, not {words}' in said


def test_other_weights_of_init_from_are_named(first, place, tmp_path):
  run = tiny(place / 'text', steps=2, eval_every=2, init_from=str(first))
  run.optim.warmup = 1
  train.train(run, tmp_path / 'run', report=say_nothing)
  recorded = json.loads((tmp_path / 'run/run.json').read_text())['data']['source']
  assert recorded == checksums.digest(load(first).params)
  shutil.copytree(tmp_path / 'run', tmp_path / 'again')
  same, said = reproduced(tmp_path / 'run', tmp_path / 'again')
  assert same and 'init_from' not in said

  def change(about):
    about['data']['source'] = '0' * 64

  alter(tmp_path / 'run', change)
  _, said = reproduced(tmp_path / 'run', tmp_path / 'again')
  assert 'differs: weights of init_from: changed (sha256 000000000000 there' in said


def test_another_seed_and_changed_data_are_named_with_what_differs_first(
  place, copied, tmp_path
):
  run, other = copied[0], tmp_path / 'other'
  shutil.copytree(place / 'text', tmp_path / 'text')
  path = run / 'run.json'
  path.write_text(path.read_text().replace(str(place / 'text'), str(tmp_path / 'text')))
  changed = tmp_path / 'text/03.txt'
  changed.write_text(changed.read_text().replace('cat', 'cow', 1))
  (tmp_path / 'text/07.txt').unlink()

  def change(about):
    about['config']['seed'] = 1

  alter(run, change)
  same, said = reproduced(run, other)
  assert not same
  before, after = said.split('training  20 updates')  # it is told before it trains
  for part in (before, after):
    assert 'config seed: 0 when it was trained, 1 in run.json now' in part
    assert f'data file {changed}: changed (sha256 ' in part
    assert f'data file {tmp_path}/text/07.txt: not there any more' in part
  assert 'the first line of metrics that differs is of update 2: loss ' in after
  assert 'checkpoint that differs is that of update 10: 20 of 20 tensors' in after
  (a, b), name = (load(f, 10).params for f in (run, other)), 'h_0/attn/k/bias'
  a, b = (np.asarray(each['h_0']['attn']['k']['bias']) for each in (a, b))
  apart = f'{name}, up to {np.abs(a).max():.3g}, are up to {np.abs(a - b).max():.3g}'
  assert f'at update 10 the values of {apart} apart' in after
  shutil.rmtree(tmp_path / 'text')
  with pytest.raises(UserError, match=f'no file matches {tmp_path}/text'):
    reproduced(run, tmp_path / 'again2')


def test_a_line_of_code_that_was_changed_is_named(first, tmp_path):
  shutil.copytree(
    ROOT / 'gpt_jax', tmp_path / 'gpt_jax', ignore=shutil.ignore_patterns('__pycache__')
  )
  shutil.copy(ROOT / 'launch.py', tmp_path)
  path = tmp_path / 'gpt_jax/model/gpt.py'
  text = path.read_text()
  assert text.count('0.02') >= 1
  path.write_text(text.replace('0.02', '0.021'))
  done = subprocess.run(
    [sys.executable, 'launch.py', 'reproduce', f'--workdir={first}', '--into=again'],
    cwd=tmp_path,
    env={**os.environ, 'PYTHONPATH': str(tmp_path)},
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 1, done.stderr
  assert 'differs: source file model/gpt.py: changed (sha256' in done.stdout
  assert done.stdout.count('source file') == 2  # before and after
  assert 'first line of metrics that differs is of update 2' in done.stdout


def test_a_session_counts_for_the_updates_that_are_left_of_it(tmp_path):
  def session(name, *starts):
    about = {'config': {}, 'environment': {}}
    return {'name': name, 'starts': list(starts), **about}

  written = [
    session('a', 0, 10),
    session('b', 20),  # its checkpoints were removed, or it made none
    session('c', 15, 30),
  ]
  (tmp_path / 'run.json').write_text(json.dumps({'config': {}, 'sessions': written}))
  found = [(p.session['name'], p.first, p.last) for p in reproduce.parts(tmp_path)]
  assert found == [('a', 0, 15), ('c', 15, float('inf'))]


def test_settings_that_a_stopped_run_had_before_are_told(copied):
  def change(about):
    late = about['sessions'][0]
    early = json.loads(json.dumps(late))
    early['config']['accumulate'] = 2
    early['environment']['versions']['jax'] = '0.1'
    late['starts'] = [10]
    about['sessions'] = [early, late]

  alter(copied[0], change)
  _, said = reproduced(*copied)
  assert 'updates 1 to 10 were made with accumulate=2' in said
  assert 'package jax: 0.1 there' in said and 'its updates from 1 on' in said


def test_a_run_that_was_made_longer_elsewhere_says_so(
  place, first, copied, tmp_path, monkeypatch
):
  monkeypatch.setenv('JAX_DEFAULT_MATMUL_PRECISION', 'highest')
  run = tiny(place / 'text', steps=21)
  train.train(run, tmp_path / 'run', argv=['y'], overrides={'steps': 21})
  one, two = workdir.sessions(tmp_path / 'run')
  assert one == workdir.sessions(first)[0]
  assert (two['starts'], two['argv'], two['overrides']) == ([20], ['y'], {'steps': 21})
  assert provenance.differences(one['environment'], two['environment']) == [
    'flag JAX_DEFAULT_MATMUL_PRECISION: not set there, highest here'
  ]
  # A finished run has no further session.
  train.train(run, tmp_path / 'run', report=say_nothing)
  assert len(workdir.sessions(tmp_path / 'run')) == 2
  # The schedule knows how long a run is: it is made longer when it is trained again.
  same, said = reproduced(*copied)
  assert same, said
  assert 'finished: 20 updates are done (steps=20)' in said
  assert 'flag JAX_DEFAULT_MATMUL_PRECISION: highest there' not in said
  assert 'flag JAX_DEFAULT_MATMUL_PRECISION: not set there, highest here (its' in said
  assert 'the last of update 21' in said


def test_what_can_not_be_repeated_is_refused(first, tmp_path):
  with pytest.raises(UserError, match='is the run itself'):
    reproduced(first, first)
  with pytest.raises(UserError, match='is no workdir'):
    reproduced(tmp_path / 'nothing', tmp_path / 'into')
  (tmp_path / 'run.json').write_text('{"config": {}, "imported": "hf:gpt2"}')
  with pytest.raises(UserError, match='was not trained: .*hf:gpt2'):
    reproduced(tmp_path, tmp_path / 'into')


def test_a_run_older_than_sessions_and_fingerprints_is_held_against_by_its_losses(
  copied,
):
  def change(about):
    (session,) = about.pop('sessions')
    there = session['environment']
    about['versions'] = {'jax': '0.1', 'python': there['python']}
    about['git'], about['devices'] = there['git'], there['devices']
    about['data'].pop('files')

  alter(copied[0], change)
  (copied[0] / 'fingerprints.jsonl').unlink()
  same, said = reproduced(*copied)
  assert not same and 'package jax: 0.1 there' in said
  assert said.count('differs:') == 1 and 'bit for bit' not in said
  assert 'the same as far as is known, 10 logged losses' in said
  assert 'tensors are not compared, as the two have no fingerprints' in said


def test_another_run_s_folder_is_refused(first, copied):
  def change(about):
    about['config']['seed'] = 5

  alter(copied[1], change)
  with pytest.raises(UserError, match='seed: 5 there, 0 now'):
    reproduced(first, copied[1])
