"""The line about what was not run."""

import os
import pathlib
import subprocess
import sys

import pytest
import skips

TESTS = pathlib.Path(__file__).resolve().parent
DATA = 'no data at /x/data; set GPT_JAX_DATA'
FILES = {
  'test_a.py': f"""
import pytest

@pytest.mark.parametrize('i', range(3))
def test_data(i):
  pytest.skip({DATA!r})

def test_torch():
  pytest.importorskip('no_such_torch', reason='needs torch')

def test_runs():
  pass
""",
  'test_b.py': """
import pytest

pytest.importorskip('no_such_lm_eval', reason='lm_eval is not installed')

def test_never():
  pass
""",
  'test_c.py': """
def test_runs():
  pass
""",
}
WANTED = (
  'not run: 3 tests for want of data sets (set GPT_JAX_DATA); 1 test and 1 whole file '
  'for want of torch, transformers and lm-eval (make parity)'
)


@pytest.mark.parametrize('workers', [0, 2])
def test_the_last_lines_say_what_was_not_run_and_how_to(tmp_path, workers):
  for name, text in FILES.items():
    (tmp_path / name).write_text(text)
  found = subprocess.run(
    [sys.executable, '-m', 'pytest', '-q', '-p', 'skips', '-p', 'no:cacheprovider']
    + [f'-n{workers}', '--rootdir', str(tmp_path), str(tmp_path)],
    env=os.environ | {'PYTHONPATH': str(TESTS)},
    capture_output=True,
    text=True,
    cwd=tmp_path,
  )
  assert found.returncode == 0, found.stdout + found.stderr
  assert found.stdout.splitlines().count(WANTED) == 1, found.stdout


def test_reasons_of_one_kind_are_one_part():
  reasons = [
    *[f'Skipped: {DATA}'] * 2,
    'Skipped: no file of squad_v2 there',
    "Skipped: could not import 'optuna': No module named 'optuna'",
    'Skipped: needs /proc',
  ]
  assert skips.line(reasons) == (
    'not run: 3 tests for want of data sets (set GPT_JAX_DATA); 1 test (needs /proc); '
    '1 test for want of packages of requirements-dev.txt (make test)'
  )
  assert skips.line(['no model at /x: make parity trains it']).endswith('(make parity)')
  assert skips.line([]) == ''


def test_the_suite_says_it(pytestconfig):
  assert pytestconfig.pluginmanager.hasplugin('skips')
