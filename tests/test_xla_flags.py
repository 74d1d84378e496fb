"""Flags of XLA: added where they are known, and never over the user's."""

import pytest

from gpt_jax.training import xla_flags


@pytest.fixture
def library(tmp_path):
  path = tmp_path / 'lib.so'
  names = [*xla_flags.FLAGS['gpu'][1]]
  names[0] += '_of_another_name'  # one that this library does not know
  path.write_bytes(b'\0'.join(name.encode() for name in names) + b'\0')
  return path


def test_flags_that_a_library_knows_are_added_to_the_user_s(library):
  first, second, *_ = xla_flags.FLAGS['gpu'][1]
  environ = {'XLA_FLAGS': f'--xla_dump_to=x --{second}=false'}
  xla_flags.add(environ, 'gpu', [library])
  flags = environ['XLA_FLAGS'].split()
  assert flags[:2] == ['--xla_dump_to=x', f'--{second}=false']
  names = [flag.lstrip('-').partition('=')[0] for flag in flags]
  assert len(set(names)) == len(names) == len(xla_flags.FLAGS['gpu'][1])
  assert first not in names
  again = dict(environ)
  xla_flags.add(again, 'gpu', [library])
  assert again == environ
  assert xla_flags.said(environ, 'gpu') == f'flags     XLA_FLAGS={environ["XLA_FLAGS"]}'
  assert xla_flags.said(environ, 'cpu') == xla_flags.said({}, 'tpu') == ''


def test_nothing_is_added_for_libraries_that_are_not_there_or_do_not_know(tmp_path):
  (tmp_path / 'lib.so').write_bytes(b'nothing')
  for libraries in ([], [tmp_path / 'lib.so']):
    environ = {}
    xla_flags.add(environ, 'tpu', libraries)
    assert environ == {}


def test_devices_and_jax_s_platforms_decide(library, tmp_path, monkeypatch):
  there = {'gpu': [str(library)], 'tpu': [str(tmp_path / 'none')]}
  monkeypatch.setattr(xla_flags, '_DEVICES', there)
  monkeypatch.setattr(xla_flags, 'libraries', lambda platform: iter([library]))
  for platforms, wanted in [('', True), ('cuda,cpu', True), ('cpu', False)]:
    environ = {'JAX_PLATFORMS': platforms}
    xla_flags.set_up(environ)
    assert ('XLA_FLAGS' in environ) == wanted and 'LIBTPU_INIT_ARGS' not in environ
