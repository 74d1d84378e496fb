"""A few faults of each kind by benchmarks/faults.py, and that it can tell them."""

import json
import os
import pathlib
import random
import subprocess
import sys

import pytest

from benchmarks.injected import damage, disks, forked, place

ROOT = pathlib.Path(__file__).resolve().parent.parent
FEW = {'kills': 1, 'damage': 1, 'flips': 2}


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory):
  """What came of each case, by kind, and what the script printed.

  It forks, which a process with jax's threads must not do: it is one of its own.
  """
  path = tmp_path_factory.mktemp('faults') / 'outcomes.jsonl'
  command = [
    sys.executable,
    'benchmarks/faults.py',
    '--only=' + ','.join(f'{kind}:{number}' for kind, number in FEW.items()),
    '--verbs=train',
    '--megabytes=0.1',
    f'--outcomes={path}',
  ]
  # One device, and run.json of the same size everywhere.
  env = {**os.environ, 'XLA_FLAGS': '', 'GIT_DIR': '/nowhere'}
  done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
  assert done.returncode in (0, 1) and 'faults\n' in done.stdout, done.stderr
  found = {kind: [] for kind in FEW}
  for line in path.read_text().splitlines():
    about = json.loads(line)
    found[about['kind']].append(about['outcome'])
  return found, done.stdout


@pytest.mark.parametrize('kind', FEW)
def test_nothing_is_lost_and_nothing_silent(outcomes, kind):
  found, printed = outcomes
  wrong = [line for line in printed.splitlines() if line.startswith(f'- {kind}: ')]
  assert found[kind] and not wrong


def test_as_many_were_killed_as_asked_for(outcomes):
  assert sum(one['kills'] for one in outcomes[0]['kills']) >= FEW['kills']
  assert '| all |' in outcomes[1]


def ended(code=0, out='', err=''):
  return forked.Ended(code, out, err)


FAULT = damage.Fault('finished', 'truncated', 'params/d/abc')


@pytest.mark.parametrize(
  ('done', 'kind'),
  [
    (ended(1, err='Traceback (most recent call last):\nKeyError: 1\n'), 'TRACEBACK'),
    (ended(-6), 'TRACEBACK'),
    (ended(1, err='error: w/60 is damaged (params/d/abc: missing)\n'), 'named'),
    (ended(1, err='error: w/60 is damaged (ema/h_0/attn/q/kernel)\n'), 'named'),
    (ended(1, err='error: w/50 is damaged (params/d/abc: missing)\n'), 'UNCLEAR'),
    (ended(1, err='error: w/60 is damaged\n'), 'UNCLEAR'),
    (ended(1, err='a warning\nerror: w/60 (params/d/abc)\n'), 'UNCLEAR'),
    (ended(0), ''),
  ],
)
def test_a_failure_names_the_checkpoint_and_the_file_or_the_tensor(done, kind):
  assert damage._failed(done, 60, FAULT) == kind


@pytest.mark.parametrize(
  ('line', 'loaded', 'kind'),
  [
    ('', (60, 'six'), 'harmless'),
    ('', (60, 'other'), 'SILENT'),
    ('', (50, 'five'), 'SILENT'),
    ('checkpoint 60 is damaged (params/d/abc), using 50', (50, 'five'), 'recovered'),
    ('checkpoint 60 is damaged (params/d/abc), using 50', (50, 'six'), 'SILENT'),
  ],
)
def test_other_weights_without_a_word_are_silent(line, loaded, kind):
  known = {'steps': {'finished': [50, 60]}, 'digests': {'50': 'five', '60': 'six'}}
  step, digest = loaded
  args = ended(out=line), {'step': step, 'digest': digest}, known
  assert damage._judged_model(None, None, FAULT, 60, *args) == kind


def test_lines_that_are_not_ours_are_counted(tmp_path):
  err = 'update 2/60  loss 1\nerror: /x/w is full\nTraceback\n  File\n'
  about = disks.said(ended(1, err=err.replace('/x', str(tmp_path))), tmp_path)
  assert about['line'] == 'error: w is full' and about['foreign'] == 2


def test_a_flip_changes_one_bit():
  before = bytes(range(40))
  after = damage.flipped(bytearray(before), random.Random(0))
  changed = [a ^ b for a, b in zip(before, after, strict=True) if a != b]
  assert len(changed) == 1 and changed[0].bit_count() == 1


def test_what_is_left_is_compared_without_clocks(tmp_path):
  for name, seconds in (('a', 1.5), ('b', 2.5)):
    (tmp_path / name / 'tensorboard').mkdir(parents=True)
    line = {'step': 2, 'loss': 1.0, 'seconds': seconds}
    (tmp_path / name / 'metrics.jsonl').write_text(json.dumps(line) + '\n')
    (tmp_path / name / 'samples.txt').write_text('text')
    (tmp_path / name / f'tensorboard/{name}').write_text(name)
  (tmp_path / 'b/.results.json.17.tmp').write_text('')
  a, b = (place.left(tmp_path / name) for name in 'ab')
  assert place.differences(a, b) == ['.results.json.17.tmp is left over']
  (tmp_path / 'b/samples.txt').write_text('other')
  (tmp_path / 'b/metrics.jsonl').unlink()
  assert place.differences(a, place.left(tmp_path / 'b'))[1:] == [
    'metrics.jsonl is missing',
    'samples.txt is different',
  ]
