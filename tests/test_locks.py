"""The .lock files fulfil the ranges of requirements*.txt on every Python."""

import importlib.util
import pathlib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).resolve().parent.parent
PYTHONS = '3.11', '3.12', '3.13'
LOCKS = {
  'requirements.txt': 'requirements.lock',
  'requirements-dev.txt': 'requirements-dev.lock',
  'benchmarks/requirements.txt': 'benchmarks/requirements.lock',
}


def ranges(path: pathlib.Path) -> list[Requirement]:
  """Returns what a requirements file asks for, with the files that it includes."""
  wanted = []
  for line in path.read_text(encoding='utf-8').splitlines():
    line = line.partition('#')[0].strip()
    if line.startswith('-r '):
      wanted += ranges(path.parent / line[3:])
    elif line:
      wanted.append(Requirement(line))
  return wanted


def locked(path: pathlib.Path) -> list[tuple[Requirement, bool]]:
  """Returns the pins of a lock file, and whether each has hashes."""
  pins = []
  for line in path.read_text(encoding='utf-8').splitlines():
    if '==' in line and line[0] not in ' #':
      pins.append((Requirement(line.rstrip('\\ ')), line.endswith('\\')))
  return pins


def versions(path: pathlib.Path, python: str, platform: str) -> dict[str, str]:
  """Returns the one version of each package that a lock installs."""
  environment = {
    'python_version': python,
    'python_full_version': f'{python}.7',
    'sys_platform': platform,
    'platform_machine': 'x86_64',
  }
  chosen = {}
  for pin, _ in locked(path):
    if pin.marker is None or pin.marker.evaluate(environment):
      name = canonicalize_name(pin.name)
      assert name not in chosen, f'{path.name} pins {name} twice on Python {python}'
      (specifier,) = pin.specifier
      assert specifier.operator == '=='
      chosen[name] = specifier.version
  return chosen


@pytest.mark.parametrize('platform', ['linux', 'darwin', 'win32'])
@pytest.mark.parametrize('python', PYTHONS)
@pytest.mark.parametrize('wanted', LOCKS)
def test_a_lock_fulfils_its_ranges(wanted, python, platform):
  chosen = versions(ROOT / LOCKS[wanted], python, platform)
  wrong = [
    f'{need} is locked at {version}: run `make lock`'
    for need in ranges(ROOT / wanted)
    if (version := chosen.get(canonicalize_name(need.name))) is None
    or not need.specifier.contains(version, prereleases=True)
  ]
  assert not wrong


@pytest.mark.parametrize('python', PYTHONS)
def test_a_larger_lock_has_the_versions_of_a_smaller(python):
  small, middle, large = (versions(ROOT / f, python, 'linux') for f in LOCKS.values())
  assert small.items() <= middle.items() <= large.items()


@pytest.mark.parametrize('python', PYTHONS)
def test_compilers_of_absent_devices_have_the_versions_of_jax(python):
  dev, absent = (
    versions(ROOT / f'requirements-{name}.lock', python, 'linux')
    for name in ('dev', 'absent')
  )
  assert dev.items() <= absent.items()
  assert {'libtpu', 'jax-cuda13-pjrt', 'nvidia-cudnn-cu13'} <= absent.keys()
  assert absent['jax-cuda13-pjrt'] == absent['jaxlib']


@pytest.mark.parametrize(
  'lock', ['requirements.lock', 'requirements-dev.lock', 'requirements-absent.lock']
)
def test_what_is_installed_by_default_is_locked_with_hashes(lock):
  assert all(hashed for _, hashed in locked(ROOT / lock))


@pytest.mark.parametrize('lock', LOCKS.values())
def test_a_lock_names_no_index(lock):
  assert '://' not in (ROOT / lock).read_text(encoding='utf-8')


@pytest.fixture(scope='module')
def audit():
  """.ci/audit.py as a module."""
  spec = importlib.util.spec_from_file_location('audit', ROOT / '.ci/audit.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_an_audit_asks_for_every_pin(audit):
  text = (ROOT / 'requirements-dev.lock').read_text(encoding='utf-8')
  pins = audit.pins(text)
  layers = audit.layers(pins)
  assert len(pins) == len(locked(ROOT / 'requirements-dev.lock'))
  assert sorted(sum(layers, [])) == sorted(pins)
  for layer in layers:
    names = [pin.partition('==')[0] for pin in layer]
    assert len(names) == len(set(names))


GOOD = {'name': 'a', 'version': '1', 'vulns': []}
BAD = {
  'name': 'b',
  'version': '2',
  'vulns': [{'id': 'PYSEC-1', 'fix_versions': ['2.1']}],
}
SKIPPED = {'name': 'c', 'skip_reason': 'not there'}


@pytest.mark.parametrize(
  'asked, packages, failure, code, said',
  [
    (1, [GOOD], '', 0, ['no known vulnerabilities in 1 packages']),
    (2, [GOOD, BAD], '', 1, ['b 2: PYSEC-1, mended in 2.1']),
    (2, [GOOD, SKIPPED], '', 2, ['NOT AUDITED: 1 of 2 packages', 'not there']),
    (2, [BAD, SKIPPED], '', 1, ['PYSEC-1', 'NOT AUDITED: 1 of 2']),
    (2, [], 'no network', 2, ['NOT AUDITED: 2 of 2 packages', 'no network']),
    (2, [GOOD], '', 2, ['NOT AUDITED: 1 of 2']),
    (0, [], '', 2, ['NOT AUDITED: 0 of 0']),
  ],
)
def test_an_audit_that_could_not_look_is_not_a_good_one(
  audit, asked, packages, failure, code, said
):
  got, lines = audit.verdict(asked, packages, failure)
  assert got == code
  for each in said:
    assert each in '\n'.join(lines)
