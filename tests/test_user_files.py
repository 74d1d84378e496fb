"""Files of users, written before the rooms moved, still mean what they meant."""

import importlib.util
import json
import pathlib
import subprocess
import sys

from gpt_jax import config
from gpt_jax.evaluation import scoring_rules
from gpt_jax.sweep import run as sweep_run
from gpt_jax.tasks import prompted_files

FILES = pathlib.Path(__file__).resolve().parent / 'user_files'
ROOT = FILES.parent.parent


def opened(name):
  spec = importlib.util.spec_from_file_location(f'user_{name}', FILES / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_an_experiment_of_before_gives_a_run_that_is_right():
  run = opened('experiment').get_config('XL')
  config.check(run)
  assert run.model.D == 2048
  assert run.model.attention == 'dense,banded'


def test_a_sweep_file_of_before_gives_its_runs(tmp_path):
  planned = sweep_run.planned(
    str(FILES / 'sweep.py'),
    base=opened('experiment').get_config(),
    given={},
    config_file=str(FILES / 'experiment.py'),
    folder=str(tmp_path / 'sweep'),
    argv=['launch.py', 'sweep'],
  )
  rates = [(e.run.optim.lr, e.run.seed, e.run.model.L) for e in planned.entries]
  assert rates == [(1e-3, 0, 1), (1e-3, 1, 1), (3e-3, 0, 1), (3e-3, 1, 1)]


def test_a_prompted_task_of_before_reads_its_file_and_asks(tmp_path):
  task = opened('task').QUIZ
  folder = tmp_path / 'quiz'
  folder.mkdir()
  rows = [{'question': 'Is it?', 'label': 1}, {'question': 'Is it not?', 'label': 0}]
  (folder / 'dev.jsonl').write_text('\n'.join(map(json.dumps, rows)) + '\n')
  questions = prompted_files.read(task, tmp_path, 'dev')
  assert [q.gold for q in questions] == [(0,), (1,)]
  assert questions[0].example() == 'Question: Is it?\nAnswer: yes'
  assert scoring_rules.chance(task, questions) == 0.5


def test_names_of_before_are_the_modules_of_now():
  import gpt_jax.data.rows
  import gpt_jax.prompting.question
  from gpt_jax.prompting import files

  from gpt_jax.tasks import prompts, readers

  assert gpt_jax.data.rows.Row is readers.Row
  assert gpt_jax.prompting.question.Question is prompts.Question
  assert files.table is prompted_files.table


def test_the_harness_is_run_under_its_name_of_before():
  run = subprocess.run(
    [sys.executable, '-m', 'gpt_jax.harness', '--help'],
    capture_output=True,
    text=True,
    cwd=ROOT,
  )
  said = run.stdout + run.stderr
  assert 'lm_eval' in said or 'lm-eval' in said, said
  assert 'No module named gpt_jax' not in said
