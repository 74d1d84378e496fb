"""Sweeps: the algebra, commands, folders, and real runs that are killed and go on."""

import csv
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import sweep_files
from sweep_files import made_up

import launch
from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.reports import sweep as sweep_report
from gpt_jax.runs.workdir import alone, in_use
from gpt_jax.sweep import algebra, chain, grid, point, pool, run, status, worker, zipped
from gpt_jax.training.loop import Interrupted
from gpt_jax.training.metrics_log import read_metrics

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture
def sweep_of(tmp_path, monkeypatch):
  """A function of a sweep file's text that gives the sweep, planned in its folder."""
  sweep_files.write(tmp_path)
  monkeypatch.chdir(tmp_path)
  return lambda *args: sweep_files.planned(monkeypatch, *args)


# The algebra


def test_a_grid_is_every_combination_with_the_last_field_fastest():
  fields = {'optim.lr': [1, 2], 'model.D': [3, 4, 5], 'seed': [6]}
  wanted = [
    dict(zip(fields, values, strict=True))
    for values in itertools.product(*fields.values())
  ]
  assert list(grid(fields)) == wanted


def test_products_and_sums_are_those_of_lists():
  a, b, c = (
    grid({'a': [1, 2]}),
    zipped({'b': [1, 2, 3], 'c': [4, 5, 6]}),
    point({'d': 0}),
  )
  pairs = [{'b': 1, 'c': 4}, {'b': 2, 'c': 5}, {'b': 3, 'c': 6}]
  assert list(b) == pairs
  assert list(a * b) == [{'a': x} | pair for x in (1, 2) for pair in pairs]
  assert list(a + b) == [{'a': 1}, {'a': 2}, *pairs]
  assert list(chain(a, b, c)) == list(a + b + c)
  assert list(a * b * c) == list(a * (b * c)) and len(a * b + c) == 7
  assert list(a * (b + c)) == list(algebra.Points([x | y for x in a for y in [*b, *c]]))


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: zipped({'a': [1], 'b': [1, 2]}), 'equal length: a has 1, b has 2'),
    (lambda: grid({'a': [1]}) * grid({'b': [2], 'a': [3]}), 'a is on both sides'),
    (lambda: grid({'a': []}), 'a has no values'),
    (lambda: grid({}), 'grid names no field'),
    (lambda: grid({'a': 'text'}), r"a='text' must be a list of values; write \['text'"),
    (lambda: grid({'a': 3}), 'a=3 must be a list'),
    (chain, 'at least one run'),
    (lambda: chain(grid({'a': [1]}), {'a': 2}), "{'a': 2} is no part of a sweep"),
  ],
)
def test_what_makes_no_sweep_is_refused(make, message):
  with pytest.raises(UserError, match=message):
    make()


# Sweep files and commands


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ("RUNS = grid({'optim.lrr': [1]})", r"sweep.py: there is no field 'optim.lrr'.*lr"),
    ("RUNS = grid({'seed': [0, 1, 0]})", 'sweep.py:\n.* and .* are equal runs'),
    ("RUNS = point({'seed': 0}) + point({})", 'are equal runs'),
    (
      "RUNS = grid({'model.D': [8, 9]})",
      'D=9: model.D=9 must be a multiple of model.N',
    ),
    ("RUNS = grid({'model.D': [8.5]})", 'model.D=8.5 must be of type int'),
    ("RUNS = grid({'model.D': [[8]]})", r'model.D=\[8\] must be of type int'),
    ("RUNS = zipped({'seed': [1], 'steps': [1, 2]})", 'sweep.py: zipped needs lists'),
    ('RUNS = 3', 'sweep.py must have RUNS = grid'),
    ('', 'sweep.py must have RUNS = grid'),
    ('RUNS = grod()', "sweep.py, line 2: NameError: name 'grod' is not defined"),
    ("RUNS = grid({'data.tokens': ['a']})", 'data.tokens is set by the sweep itself'),
    ("RUNS = grid({'batch': [1]})", r'--config.batch=4 is set by sweep.py too'),
    ("RUNS = point({'task.name': 'sst2', 'init_from': 'x'})", 'task.data='),
  ],
)
def test_a_sweep_file_that_says_no_sweep_is_refused_by_name(sweep_of, text, message):
  with pytest.raises(UserError, match=message):
    sweep_of(text, 'sweep', '--config.batch=4')


def test_every_command_of_a_dry_run_parses_back_to_the_config_of_its_run(
  sweep_of, monkeypatch
):
  sweep = sweep_of(
    "RUNS = grid({'optim.lr': [1, 2e-3], 'model.tied': [True, False]}) * zipped({"
    "'prompts': [('a', 'b, c'), ['it\\'s $HOME'], ()], 'data.field': ['', 'x y', 'z=1']"
    "}) + point({'seed': 3})",
    'a folder',
    '--config.model.D=16',
  )
  lines = run.commands(sweep).splitlines()
  assert len(lines) == len(sweep.entries) == 13
  assert len({entry.workdir for entry in sweep.entries}) == 13
  for line, entry in zip(lines, sweep.entries, strict=True):
    echo = subprocess.run(['bash', '-c', f'printf "%s\\n" {line}'], capture_output=True)
    argv = echo.stdout.decode().splitlines()
    assert argv[:3] == ['python', 'launch.py', 'train']
    monkeypatch.setattr(sys, 'argv', argv[1:])
    values = launch._parse('train', argv[3:])
    assert config.flat(values.config) == config.flat(entry.run)
    assert values.workdir == str(entry.workdir) and values.config.model.D == 16
  assert run.commands(sweep, 2) == lines[2]
  with pytest.raises(UserError, match=r'--index=13 must be in 0..12'):
    run.commands(sweep, 13)


def test_runs_share_token_files_where_their_data_is_the_same(sweep_of):
  same = sweep_of("RUNS = grid({'optim.lr': [1e-3, 1e-2], 'data.windows': ['random']})")
  assert {e.run.data.tokens for e in same.entries} == {'sweep/tokens'}
  other = sweep_of(
    "RUNS = grid({'data.tokenizer': ['chars', 'bytes'], 'seed': [0, 1]})"
  )
  places = [e.run.data.tokens for e in other.entries]
  assert places[0] == places[1] != places[2] == places[3]
  kept = sweep_of("RUNS = grid({'seed': [0]})", 'sweep', '--config.data.tokens=shared')
  assert kept.entries[0].run.data.tokens == 'shared'


# Workers


def test_cores_and_devices_are_shared_out_evenly():
  cores = len(os.sched_getaffinity(0))
  found = pool.cpu_slots(cores)
  assert sorted(core for slot in found for core in slot.cores) == sorted(
    os.sched_getaffinity(0)
  )
  with pytest.raises(UserError, match=f'must be at most {cores}, the cores here'):
    pool.cpu_slots(cores + 1)
  gpus = pool.device_slots('gpu', 4, 2, {'CUDA_VISIBLE_DEVICES': '4,5,6,7'})
  assert [s.environment['CUDA_VISIBLE_DEVICES'] for s in gpus] == ['4,5', '6,7']
  gpus = pool.device_slots('gpu', 3, 3, {})
  assert [s.environment['CUDA_VISIBLE_DEVICES'] for s in gpus] == ['0', '1', '2']
  assert pool.device_slots('gpu', 4, 1, {})[0].environment == {}
  chips = pool.device_slots('tpu', 2, 2, {'CUDA_VISIBLE_DEVICES': '7'})
  assert [s.environment['TPU_VISIBLE_CHIPS'] for s in chips] == ['0', '1']
  with pytest.raises(UserError, match='must be 1 or 4 on a TPU'):
    pool.device_slots('tpu', 4, 2, {})
  with pytest.raises(UserError, match='--workers=5 must be at most 4, the devices'):
    pool.device_slots('gpu', 4, 5, {})


TWO = "RUNS = grid({'model.T': [8, 5000]})"  # the text is too short for the second


def test_a_sweep_goes_on_after_every_kind_of_kill(tmp_path, sweep_of):
  sweep = sweep_of(TWO, 'killed')
  good, bad = sweep.entries
  line = [sys.executable, str(ROOT / 'launch.py'), *sweep.arguments]

  def seen(size=0):
    path = good.workdir / 'metrics.jsonl'
    return path.exists() and path.stat().st_size > size

  # kill -9 of the sweep: its worker saves, and ends too.
  process = subprocess.Popen(
    line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
  )
  while not seen():
    assert process.poll() is None, process.stderr.read()
    time.sleep(0.02)
  with pytest.raises(UserError, match='killed is in use'):
    run.run(sweep, workers_at_once=1, retries=0)
  process.kill()
  process.wait()
  process.stderr.close()
  deadline = time.monotonic() + 60
  while in_use(good.workdir) and time.monotonic() < deadline:
    time.sleep(0.05)
  assert not in_use(good.workdir)
  saved = [p for p in (good.workdir / 'checkpoints').iterdir() if p.name.isdigit()]
  assert saved
  assert not status.finished(good)

  # kill -9 of a worker: it starts again, and finishes. Ctrl-C then stops the next one.
  workers = pool.Pool(sweep, pool.cpu_slots(1), retries=1)
  told = []

  def show():
    name = workers.running[0].entries[0].name if workers.running else ''
    if name == good.name and not told:
      workers.running[0].process.kill()
      told.append('killed')
    if name == bad.name and len(told) == 1:
      os.kill(os.getpid(), signal.SIGINT)
      told.append('stopped')

  with pytest.raises(Interrupted):
    workers.work(show)
  assert workers.states == {'T=8': 'finished', 'T=5000': 'stopped'}
  log = (tmp_path / 'killed/logs/T=8.log').read_text()
  assert log.count('--- ') == 3 and 'going on from the checkpoint of update' in log

  # The same again does what is left. A message to the user is not tried again.
  with pytest.raises(UserError, match='1 of 2 runs failed') as failure:
    run.run(sweep, workers_at_once=1, retries=1)
  assert 'fewer than one context of model.T=5000' in str(failure.value)
  assert status.finished(good) and not status.finished(bad)
  assert (tmp_path / 'killed/logs/T=8.log').read_text() == log
  assert (tmp_path / 'killed/logs/T=5000.log').read_text().count('--- ') == 2
  rows = list(csv.DictReader((tmp_path / 'killed/sweep.csv').open()))
  assert [row['state'] for row in rows] == ['finished', 'failed']
  assert float(rows[0]['final_nats_per_token']) == status.result(good).curve[-1][1]
  assert int(rows[0]['tokens']) == 1200 * 4 * 8
  assert (tmp_path / 'killed/tokens/tokens/train.bin').exists()
  assert not (good.workdir / 'tokens').exists()

  # Nothing of the finished run is touched again.
  before = (good.workdir / 'metrics.jsonl').read_bytes()
  run.run_one(sweep, 0)
  assert (good.workdir / 'metrics.jsonl').read_bytes() == before


def test_runs_of_one_kind_train_together_and_a_lost_one_is_told(sweep_of, tmp_path):
  sweep = sweep_of(
    "RUNS = point({'steps': 8, 'eval_every': 4}) * (grid({'optim.lr': [1e-3, 1e30], "
    "'seed': [0, 1]}) + point({'model.T': 4}))",
    tmp_path / 'sweep',
  )
  names = [entry.name for entry in sweep.entries]
  assert [len(g) for g in worker.groups(sweep.entries, 0, 1)] == [4, 1]
  assert [len(g) for g in worker.groups(sweep.entries, 0, 2)] == [2, 2, 1]
  assert [len(g) for g in worker.groups(sweep.entries, 3, 1)] == [2, 2, 1]
  assert [len(g) for g in worker.groups(sweep.entries, 1, 1)] == [1] * 5
  with pytest.raises(UserError, match='2 of 5 runs failed') as failure:
    run.run(sweep, workers_at_once=1, retries=1)
  wild = [name for name in names if 'lr=1e+30' in name]
  assert all(f'{name}: the loss of update' in str(failure.value) for name in wild)
  for entry in sweep.entries:
    assert status.finished(entry) == (entry.name not in wild)
  logs = sorted(path.name for path in (tmp_path / 'sweep/logs').iterdir())
  assert logs == sorted([f'{names[0]}_and_3.log', f'{names[4]}.log'])
  rows = list(csv.DictReader((tmp_path / 'sweep/sweep.csv').open()))
  assert [row['state'] == 'failed' for row in rows] == [n in wild for n in names]
  # Known, so that the same again trains nothing.
  with pytest.raises(UserError, match='2 of 5 runs failed'):
    run.run(sweep, workers_at_once=1, retries=1)
  log = (tmp_path / 'sweep/logs' / f'{wild[0]}_and_1.log').read_text()
  assert '0 of 2 runs, together' in log


TUNE = """
from gpt_jax import config
import tiny_task, pathlib
def get_config():
  return tiny_task.make(pathlib.Path('PLACE'), task__epochs=1)
"""


def test_fine_tunings_are_swept_and_shown_by_their_dev_split(
  sweep_of, task_place, tmp_path, monkeypatch
):
  experiment = TUNE.replace('PLACE', str(task_place))
  (tmp_path / 'tiny.py').write_text(experiment)
  monkeypatch.setenv('PYTHONPATH', str(ROOT / 'tests'))
  sweep = sweep_of("RUNS = grid({'optim.lr': [1e-3, 1e30]})", 'tuned')
  good, bad = sweep.entries
  assert [len(g) for g in worker.groups(sweep.entries, 0, 1)] == [1, 1]
  assert good.run.data.tokens == '' and 'data.tokens' not in good.command
  assert status.result(good).state == 'waiting' and not status.finished(good)
  # A rate at which all seeds diverge is told, and not tried again.
  with pytest.raises(UserError, match='1 of 2 runs failed') as failure:
    run.run(sweep, workers_at_once=1, retries=1)
  assert 'the loss of update' in str(failure.value)
  assert not status.finished(bad)
  assert not (tmp_path / 'tuned/tokens').exists()

  result = status.result(good)
  seeds = [good.workdir / f'seed_{seed}' for seed in (0, 1)]
  lines = [[x for x in read_metrics(f) if 'dev_nll' in x] for f in seeds]
  mean = (lines[0][-1]['dev_nll'] + lines[1][-1]['dev_nll']) / 2
  assert result.final_nll == result.best_nll == pytest.approx(mean, abs=1e-12)
  assert (result.state, result.step, result.steps) == ('finished', 5, 5)
  results = json.loads((good.workdir / 'results.json').read_text())
  assert result.best_metric == results['over_seeds']['accuracy']['mean']
  rows = list(csv.DictReader((tmp_path / 'tuned/sweep.csv').open()))
  assert [row['state'] for row in rows] == ['finished', 'failed']
  assert rows[0]['best_dev_metric'] == str(result.best_metric)
  path, _ = sweep_report.write(tmp_path / 'tuned', tmp_path / 'report')
  text = path.read_text()
  assert 'nats/example' in text and 'nats/token' not in text
  assert f'| {result.best_metric:.4f} |' in text

  # Nothing of the finished run is touched again; results that are missing are made.
  before = (seeds[0] / 'metrics.jsonl').read_bytes()
  (good.workdir / 'results.json').unlink()
  assert not status.finished(good)
  run.run_one(sweep, 0)
  assert status.finished(good)
  assert (seeds[0] / 'metrics.jsonl').read_bytes() == before
  (seeds[1] / 'metrics.jsonl').unlink()
  with pytest.raises(UserError, match='but not the metrics.jsonl'):
    status.check_folder(good)


def test_a_seed_that_is_behind_hides_no_loss_of_the_others(sweep_of, tmp_path):
  text = "RUNS = point({'task.name': 'sst2', 'task.data': 'x', 'init_from': 'y', "
  text += "'seeds': 2, 'optim.warmup': 0})"
  (entry,) = sweep_of(text, tmp_path / 'sweep').entries
  for seed, losses in enumerate([(0.5, 0.25), (0.75,)]):
    folder = entry.workdir / f'seed_{seed}'
    folder.mkdir(parents=True)
    lines = [
      line
      for step, nll in enumerate(losses, 1)
      for line in ({'step': step, 'loss': nll}, {'step': step, 'dev_nll': nll})
    ]
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (folder / 'metrics.jsonl').write_text(text)
  assert status.lines(entry) == [
    {'step': 1, 'loss': 0.625},
    {'step': 1, 'valid_nll': 0.625},
    {'step': 2, 'loss': 0.25},
  ]


# Folders


def tree(folder):
  return {
    path.relative_to(folder): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file() and not path.name.startswith('.')
  }


def change(path, old, new):
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
  ('edit', 'message'),
  [
    (lambda w: (w / 'run.json').unlink(), 'has checkpoints but no run.json'),
    (
      lambda w: change(w / 'run.json', '"optim.lr": 0.001', '"optim.lr": 0.5'),
      'optim.lr: 0.5 there, 0.001 now\nIf run.json was changed by hand',
    ),
    (lambda w: (w / 'run.json').write_text('{'), 'run.json is damaged'),
    (lambda w: change(w / 'run.json', '"seed"', '"sed"'), 'run.json is damaged'),
    (
      lambda w: change(w / 'metrics.jsonl', '{', ''),
      'metrics.jsonl: line 1 is damaged',
    ),
    (lambda w: change(w / 'metrics.jsonl', '2.0', '"2"'), "is '2' instead of a finite"),
    (lambda w: (w / 'metrics.jsonl').unlink(), 'but not the metrics.jsonl'),
    (lambda w: (w / 'metrics.jsonl').write_text(''), 'but not the metrics.jsonl'),
  ],
)
def test_a_folder_that_was_edited_is_an_error_and_nothing_is_lost(
  sweep_of, tmp_path, edit, message
):
  sweep = sweep_of("RUNS = grid({'optim.lr': [1e-3, 1e-2]})", tmp_path / 'sweep')
  for entry in sweep.entries:
    made_up(entry)
  edit(sweep.entries[0].workdir)
  before = tree(tmp_path)
  with pytest.raises(UserError, match=message):
    run.run(sweep, workers_at_once=1, retries=1)
  assert {
    path: text for path, text in tree(tmp_path).items() if path in before
  } == before
  assert set(tree(tmp_path)) - set(before) == {pathlib.Path('sweep/sweep.json')}


def test_a_run_that_was_stopped_before_its_first_line_is_no_edited_one(
  sweep_of, tmp_path
):
  (entry,) = sweep_of("RUNS = point({'seed': 1})", tmp_path / 'sweep').entries
  made_up(entry, (), done=False)
  (entry.workdir / 'checkpoints/1/params').mkdir(parents=True)
  status.check_folder(entry)
  assert status.result(entry).state == 'waiting'


def test_a_folder_of_another_sweep_is_refused_with_what_differs(sweep_of, tmp_path):
  folder = tmp_path / 'sweep'
  text = "RUNS = grid({'optim.lr': [1e-3, 1e-2]})"
  with run.opened(sweep_of(text, folder), shared=False):
    pass
  for other, override, message in (
    (text, '--config.batch=8', 'batch: 4 there, 8 now'),
    (
      text.replace('1e-2', '1e-1'),
      '--config.batch=4',
      r'run lr=0.1: no such run there',
    ),
    (text.replace('1e-3, 1e-2', '1e-2, 1e-3'), '--config.batch=4', 'another order'),
  ):
    with pytest.raises(UserError, match=f'holds another sweep(.|\n)*{message}'):
      run.run(sweep_of(other, folder, override), workers_at_once=1, retries=0)
  # How long runs are is no part of what they are.
  with run.opened(sweep_of(text, folder, '--config.steps=99'), shared=False):
    pass
  (folder / 'sweep.json').write_text('[]')
  with pytest.raises(UserError, match='sweep.json is damaged'):
    run.run(sweep_of(text, folder), workers_at_once=1, retries=0)
  (folder / 'run.json').write_text('{}')
  with pytest.raises(UserError, match='holds a single run'):
    run.run(sweep_of(text, folder), workers_at_once=1, retries=0)


def test_jobs_of_an_array_share_a_folder_that_a_second_sweep_may_not(
  sweep_of, tmp_path
):
  sweep = sweep_of("RUNS = grid({'seed': [0, 1]})", tmp_path / 'sweep')
  with (
    run.opened(sweep, shared=True),
    run.opened(sweep, shared=True),
    pytest.raises(UserError, match='is in use'),
  ):
    run.run(sweep, workers_at_once=1, retries=0)
  with alone(sweep.folder), pytest.raises(UserError, match='is in use'):
    run.run_one(sweep, 0)


def test_seconds_add_up_over_processes_and_unfinished_runs_say_so(sweep_of, tmp_path):
  sweep = sweep_of("RUNS = grid({'seed': [0, 1, 2]})", tmp_path)
  made_up(sweep.entries[0], (3.0, 1.0, 2.0))
  made_up(sweep.entries[1], done=False)
  path = sweep.entries[0].workdir / 'metrics.jsonl'
  change(path, '"seconds": 2.5', '"seconds": 40.0')  # then a new process counts from 0
  found = status.result(sweep.entries[0])
  assert found.seconds == 42.5 and found.final_nll == 2.0 and found.best_nll == 1.0
  assert found.curve == ((400, 3.0), (800, 1.0), (1200, 2.0))
  assert [status.result(e).state for e in sweep.entries] == [
    *('finished', 'unfinished', 'waiting')
  ]
  change(sweep.entries[1].workdir / 'run.json', '{', '')
  rows = list(csv.DictReader(status.write_csv(sweep, {'seed=2': 'failed'}).open()))
  assert [row['state'] for row in rows] == ['finished', 'unreadable', 'failed']
  assert [row['best_nats_per_token'] for row in rows] == ['1.0', '', '']
  assert rows[0]['flops'] == str(found.flops) and rows[0]['commit'] == 'abc'


def test_seconds_to_the_end_are_those_of_the_updates_left():
  line = {'step': 40, 'input_ms': 1, 'compute_ms': 200, 'other_ms': 49}
  assert status._left([{'step': 20}, line], 100) == pytest.approx(60 * 0.25)
  assert status._left([line], 30) == 0
  assert status._left([], 100) is None


def test_a_message_is_not_tried_again_and_a_crash_is():
  assert pool._hopeless('lines\nerror: the loss of update 3 is nan\n')
  assert not pool._hopeless('Killed\n')
  assert not pool._hopeless('Traceback (most recent call last)\nerror: x\n')
