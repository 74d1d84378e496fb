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


def _run(folder: pathlib.Path, workers: int) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, '-m', 'pytest', '-q', '-p', 'skips', '-p', 'no:cacheprovider']
    + [f'-n{workers}', '--rootdir', str(folder), str(folder)],
    env=os.environ | {'PYTHONPATH': str(TESTS)},
    capture_output=True,
    text=True,
    cwd=folder,
  )


@pytest.mark.parametrize('workers', [0, 2])
def test_the_last_lines_say_what_was_not_run_and_how_to(tmp_path, workers):
  for name, text in FILES.items():
    (tmp_path / name).write_text(text)
  result = _run(tmp_path, workers)
  assert result.returncode == 0, result.stdout + result.stderr
  assert result.stdout.splitlines().count(WANTED) == 1, result.stdout


def test_a_worker_that_crashes_is_a_failure_that_names_its_test(tmp_path):
  (tmp_path / 'test_a.py').write_text(
    'import os\n\ndef test_ends():\n  os._exit(1)\n\ndef test_runs():\n  pass\n'
  )
  (tmp_path / 'test_b.py').write_text(FILES['test_b.py'])
  result = _run(tmp_path, 2)
  assert result.returncode == 1
  assert "crashed while running 'test_a.py::test_ends'" in result.stdout
  assert 'INTERNALERROR' not in result.stdout
  assert '1 whole file for want of torch' in result.stdout


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
