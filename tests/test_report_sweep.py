"""The report of a sweep, of made-up runs; and the extras of sweeps."""

import json
import math
import os
import re
import signal
import sys
import threading

import pytest
import sweep_files
from sweep_files import made_up

from gpt_jax.config import UserError
from gpt_jax.reports import sweep as sweep_report
from gpt_jax.sweep import (
  choice,
  log_uniform,
  optuna_search,
  run,
  search,
  slurm,
  uniform,
)

RUNS = "RUNS = grid({'optim.lr': [1e-3, 1e-2], 'model.D': [8, 16], 'seed': [0, 1, 2]})"
T_95 = 4.302652729911275  # Student's t with 2 degrees of freedom, 0.975


@pytest.fixture
def sweep_of(tmp_path, monkeypatch):
  sweep_files.write(tmp_path)
  monkeypatch.chdir(tmp_path)
  return lambda *args: sweep_files.planned(monkeypatch, *args)


def rows(text, *begin):
  lines = [re.split(r'(?<!\\)\|', line)[1:-1] for line in text.splitlines()]
  cells = [[cell.strip() for cell in line] for line in lines]
  return [row for row in cells if tuple(row[: len(begin)]) == begin]


def test_a_report_has_means_and_intervals_over_seeds(sweep_of, tmp_path):
  sweep = sweep_of(RUNS, tmp_path / 'sweep')
  with run.opened(sweep, shared=False):
    pass
  with pytest.raises(UserError, match='no run has a held-out loss yet'):
    sweep_report.write(tmp_path / 'sweep', tmp_path / 'report')
  losses = {}
  for i, entry in enumerate(sweep.entries[:-1]):  # the last one did not begin
    nll = 1.0 + 0.1 * (i * 7 % 11)
    losses[entry.name] = nll
    made_up(entry, (3.0, nll, nll + 0.5))
  paths = sweep_report.write(tmp_path / 'sweep', tmp_path / 'report')
  text, page = (path.read_text() for path in paths)
  own = [losses[f'lr=0.01_D=8_seed={seed}'] for seed in (0, 1, 2)]
  mean = sum(own) / 3
  half = T_95 * math.sqrt(sum((x - mean) ** 2 for x in own) / 2) / math.sqrt(3)
  ((*_, seeds, best, final, bits),) = rows(text, '0.01', '8')
  assert seeds == '3'
  assert best == f'{mean:.4f} [{mean - half:.4f}, {mean + half:.4f}]'
  assert final.startswith(f'{mean + 0.5:.4f} ') and bits.startswith(f'{mean / 0.7:.4f}')
  means = [float(m) for m in re.findall(r'\| [23] \| ([\d.]+) \[', text)]
  assert means == sorted(means) and len(means) == 4
  assert rows(text, 'lr=0.01_D=16_seed=2')[0][1] == 'waiting'
  assert '11 finished, 1 waiting' in text and '`abc`' in text
  for name in ('sweep_curves', 'sweep_loss'):
    picture = (tmp_path / 'report' / f'{name}.png').read_bytes()
    assert picture[:4] == b'\x89PNG' and f'({name}.png)' in text
  assert page.count('data:image/png;base64,') == 2 and 'viewport' in page
  assert not re.search(r'(src|href)="(?!data:)', page)  # nothing beside itself
  for row in rows(text, 'lr=0.001_D=8_seed=0'):
    assert all(f'>{cell}</td>' in page for cell in row)


def test_a_sweep_of_texts_has_curves_but_no_plot_by_numbers(sweep_of, tmp_path):
  sweep = sweep_of(
    "RUNS = grid({'model.activation': ['gelu', 'relu'], 'model.tied': [True, False]})",
    tmp_path / 'sweep',
  )
  with run.opened(sweep, shared=False):
    pass
  for entry in sweep.entries:
    made_up(entry)
  sweep_report.write(tmp_path / 'sweep', tmp_path / 'report')
  names = {path.name for path in (tmp_path / 'report').iterdir()}
  assert names == {'sweep.md', 'sweep.html', 'sweep_curves.png'}
  (tmp_path / 'sweep' / 'sweep.json').write_text(json.dumps({'config': 1}))
  with pytest.raises(UserError, match='sweep.json is damaged'):
    sweep_report.write(tmp_path / 'sweep', tmp_path / 'report')
  with pytest.raises(UserError, match='is no sweep'):
    sweep_report.write(tmp_path / 'nowhere', tmp_path / 'report')


def of_tokenizers(sweep, tmp_path, changed=()):
  """Writes runs of 5, 4 and 3 bits/byte whose nats/token rank them the other way.

  Returns the report; the tokenizers of `changed`, by number, change text.
  """
  with run.opened(sweep, shared=False):
    pass
  for i, entry in enumerate(sweep.entries):
    made_up(entry)
    about = json.loads((entry.workdir / 'run.json').read_text())
    record = {'unknown': 0, 'lost': 0, 'pieces': 2, 'bytes': 9}
    record |= {'changed': int(i in changed), 'how': ['letter case'], 'first': []}
    about['data'] = {'tokenizer': f'{i}', 'fidelity': record}
    (entry.workdir / 'run.json').write_text(json.dumps(about))
    line = {'step': 1200, 'valid_nll': 1.0 + i, 'valid_bpb': 5.0 - i}
    (entry.workdir / 'metrics.jsonl').write_text(
      json.dumps({'step': 1200, 'loss': 2.0, 'seconds': 1.0})
      + '\n'
      + json.dumps(line)
      + '\n'
    )
  sweep_report.write(tmp_path / 'sweep', tmp_path / 'report')
  return (tmp_path / 'report' / 'sweep.md').read_text()


TOKENIZERS = "RUNS = grid({'data.vocab': [300, 400, 500]})"


def test_runs_of_several_tokenizers_are_ranked_by_bits(sweep_of, tmp_path):
  text = of_tokenizers(sweep_of(TOKENIZERS, tmp_path / 'sweep'), tmp_path)
  assert [row[0] for row in rows(text) if len(row) == 5 and row[1] == '1'] == [
    *('500', '400', '300')
  ]
  assert 'settings are ranked by bits/byte' in text
  assert 'sweep_loss.png' in text


def test_runs_of_several_tokenizers_are_not_ranked_where_one_changes_text(
  sweep_of, tmp_path
):
  text = of_tokenizers(sweep_of(TOKENIZERS, tmp_path / 'sweep'), tmp_path, changed=[1])
  assert [row[0] for row in rows(text) if len(row) == 4 and row[1] == '1'] == [
    *('300', '400', '500')
  ]
  assert 'its tokenizer changes letter case), so that neither nats/token nor' in text
  assert 'best [bits/byte]' not in text and 'sweep_loss.png' not in text


# Extras


def test_a_missing_extra_is_named_with_what_installs_it(monkeypatch):
  monkeypatch.setitem(sys.modules, 'submitit', None)
  monkeypatch.setitem(sys.modules, 'optuna', None)
  with pytest.raises(UserError, match='--slurm needs submitit: pip install submitit'):
    slurm.parameters('partition=gpu')
  with pytest.raises(UserError, match='SEARCH needs optuna: pip install optuna'):
    optuna_search.points(search({'seed': choice([0, 1])}, runs=1))


def test_a_job_of_an_array_trains_its_run(sweep_of, tmp_path):
  submitit = pytest.importorskip('submitit')
  text = "RUNS = grid({'steps': [100], 'seed': [0, 1, 2]})"
  sweep = sweep_of(text, tmp_path / 'sweep')
  made_up(sweep.entries[0])
  made_up(sweep.entries[2])
  asked = slurm.parameters('partition=gpu,time=60,array_parallelism=2')
  file = run.commands(sweep, parameters='partition=gpu,time=60')
  assert '#SBATCH --partition=gpu' in file and '#SBATCH --time=60' in file
  assert '--index=1' in file and '--index=0' not in file
  executor = submitit.DebugExecutor(tmp_path / 'jobs')
  (job,) = slurm.submit(sweep, asked, executor)
  assert job.result() == 0
  assert 'seed=1,finished' in (tmp_path / 'sweep/sweep.csv').read_text()
  with pytest.raises(UserError, match='all 3 runs are finished'):
    slurm.submit(sweep, asked, executor)
  with pytest.raises(UserError, match="'partiton=gpu' must be .*mean partition"):
    slurm.parameters('partiton=gpu')


def test_a_search_draws_the_same_distinct_points_within_its_space():
  pytest.importorskip('optuna')
  space = {
    'optim.lr': log_uniform(1e-4, 1e-1),
    'optim.clip': uniform(0.5, 2.0),
    'model.L': uniform(1, 3),
    'model.norm': choice(['pre', 'post']),
  }
  points = list(optuna_search.points(search(space, runs=20, seed=3)))
  assert points == list(optuna_search.points(search(space, runs=20, seed=3)))
  assert points != list(optuna_search.points(search(space, runs=20, seed=4)))
  assert len({tuple(each.items()) for each in points}) == 20
  assert all(1e-4 <= each['optim.lr'] <= 1e-1 for each in points)
  assert {each['model.L'] for each in points} == {1, 2, 3}
  assert {each['model.norm'] for each in points} == {'pre', 'post'}
  with pytest.raises(UserError, match='only 3 points'):
    optuna_search.points(search({'model.L': uniform(1, 3)}, runs=4))
  with pytest.raises(UserError, match='halving=1 must be 0'):
    search(space, runs=3, halving=1)
  with pytest.raises(UserError, match='low=2 must be less than high=1'):
    uniform(2, 1)


def test_rates_are_drawn_evenly_by_their_logarithm():
  pytest.importorskip('optuna')
  space = {'optim.lr': log_uniform(1e-5, 1e-1), 'optim.clip': uniform(0.0, 10.0)}
  points = list(optuna_search.points(search(space, runs=100)))
  low = sum(each['optim.lr'] < 1e-3 for each in points)
  assert 35 <= low <= 65  # half of the decades; evenly drawn it would be one
  assert 35 <= sum(each['optim.clip'] < 5 for each in points) <= 65


def test_halving_stops_the_worse_runs_at_rungs_and_remembers_it(sweep_of, tmp_path):
  pytest.importorskip('optuna')
  text = "SEARCH = search({'optim.lr': log_uniform(1e-4, 1e-1)}, runs=4, halving=2)"
  sweep = sweep_of(text, tmp_path / 'sweep')
  with pytest.raises(UserError, match='halving=2 must be 0 with --index and --slurm'):
    run.run_one(sweep, 0)
  with run.opened(sweep, shared=False):
    pass
  halving = optuna_search.Halving(sweep)
  good, bad, better, new = sweep.entries
  assert not any(halving.early(entry) for entry in sweep.entries)
  made_up(good, (2.0, 1.9, 1.8, 1.7))
  assert not halving.early(good)
  made_up(bad, (2.5, 2.4, 2.3, 2.2), done=False)
  assert halving.early(bad)
  made_up(better, (1.5, 1.4, 1.3, 1.2))
  assert not halving.early(better)
  again = optuna_search.Halving(sweep)  # as after a kill
  assert [again.early(entry) for entry in sweep.entries] == [False, True, False, False]
  made_up(new, (1.9, 1.8, 1.7, 1.6), done=False)
  assert again.early(new)


def test_a_job_whose_time_runs_out_has_its_run_save_and_is_queued_again():
  pytest.importorskip('submitit')
  saves = 'import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: '
  saves += 'sys.exit(143)); print("ready", flush=True); time.sleep(60)'
  job = slurm.Job([sys.executable, '-c', saves])
  again = []

  def time_is_out(*_):  # submitit asks in a handler, in the midst of the call
    again.append(job.checkpoint(3))

  before = signal.signal(signal.SIGUSR2, time_is_out)
  timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGUSR2))
  timer.start()
  try:
    with pytest.raises(RuntimeError, match='run 3 ended with exit status'):
      job(3)
  finally:
    timer.join()
    signal.signal(signal.SIGUSR2, before)
  (submission,) = again
  assert submission.args == (3,) and submission.function.command == job.command
