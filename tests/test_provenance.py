"""What numbers depend on: found, and how it differs in words."""

import copy
import hashlib
import json
import pathlib
import re

import jax

from gpt_jax.runs import provenance

ROOT = pathlib.Path(__file__).resolve().parent.parent


def test_all_packages_of_the_requirements_are_known():
  lines = (ROOT / 'requirements.txt').read_text().splitlines()
  names = [re.match(r'[\w.-]+', line)[0] for line in lines if re.match(r'\w', line)]
  assert set(provenance.PACKAGES) == {*names, 'jaxlib', 'numpy'}
  assert provenance.versions()['jax'] == jax.__version__


def test_every_module_has_its_hash():
  found = provenance.sources()
  path = ROOT / 'gpt_jax/model/gpt.py'
  assert found['model/gpt.py'] == hashlib.sha256(path.read_bytes()).hexdigest()
  assert len(found) == len(list((ROOT / 'gpt_jax').rglob('*.py')))


def test_only_flags_that_may_change_numbers_count(monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '--xla_something')
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', 'somewhere')
  monkeypatch.setenv('HOME', 'nowhere')
  found = provenance.flags()
  assert found['XLA_FLAGS'] == '--xla_something'
  assert not {'JAX_COMPILATION_CACHE_DIR', 'HOME'} & set(found)
  assert found['jax_enable_x64'] == 'False'


def test_each_difference_is_named():
  here = provenance.now(jax.devices()[:2])
  assert json.loads(json.dumps(here)) == here
  assert provenance.differences(here, copy.deepcopy(here)) == []
  there = copy.deepcopy(here)
  there['versions'] |= {'jax': '0.1', 'scipy': None}
  there['flags']['XLA_FLAGS'] = '--other'
  there['sources']['model/gpt.py'] = '0' * 64
  del there['sources']['files.py']
  there['sources']['gone.py'] = '1' * 64
  there['devices'] = ['gpu: NVIDIA H100 80GB HBM3']
  there['python'] = '3.0'
  there['git'] = {'commit': 'a' * 40, 'diff': 'something'}
  here['git'] = {'commit': 'b' * 40, 'diff': ''}
  found = provenance.differences(there, here)
  for wanted in (
    f'package jax: 0.1 there, {jax.__version__} here',
    'package scipy: not installed there',
    'flag XLA_FLAGS: --other there, --xla',
    r'source file model/gpt.py: changed \(sha256 000000000000 there',
    'source file files.py: missing there',
    'source file gone.py: 111111111111 there, missing here',
    r'devices: 1 \(gpu: NVIDIA H100 80GB HBM3\) there, 2 \(cpu: cpu\) here',
    'python: 3.0 there',
    'git: aaaaaaaaaaaa with changes there, bbbbbbbbbbbb here',
  ):
    assert sum(bool(re.match(wanted, text)) for text in found) == 1, (wanted, found)
  assert len(found) == 9


def test_what_an_older_run_did_not_know_is_passed_over():
  here = provenance.now([])
  assert provenance.differences({'versions': here['versions']}, here) == []


def test_files_that_were_all_moved_are_one_line():
  here = provenance.now([])
  there = copy.deepcopy(here)
  there['sources'] = {f'old/{name}': h for name, h in here['sources'].items()}
  total = len(here['sources'])
  (line,) = provenance.differences(there, here)
  assert line.startswith(f'source files: {total} of {total} were moved or renamed')
