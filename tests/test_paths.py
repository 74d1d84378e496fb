"""Paths of the user, and what a disk refuses: one sentence each (gpt_jax/files.py)."""

import errno
import os
import sys
import types

import pytest

import gpt_jax
from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.paths import (
  disk_error,
  expand_paths,
  hide_closed_loops,
  not_kept,
  said_by_system,
  user_path,
)


def test_a_path_of_the_user_is_expanded(monkeypatch):
  monkeypatch.setenv('HOME', '/home/of')
  assert user_path('~/runs/a', '--workdir', workdir=True) == '/home/of/runs/a'
  assert user_path('~', 'f') == '/home/of'
  assert user_path('~root', 'f') != '~root'
  for text in ('a/~b', './~b', 'x:y', 'C', '', 'a b', 'straße'):
    assert user_path(text, 'f') == text
  assert user_path('hf:a/b@main', 'f', others=['hf:']) == 'hf:a/b@main'


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    (
      'gs://b/x',
      r'^--to=gs://b/x must be a path of this machine.*gs: is none; mount it',
    ),
    ('gs:/b/x', 'gs: is none'),
    ('s3://b', 's3: is none'),
    ('https://a.b/c', 'https: is none'),
    ('file:///tmp/x', 'leave out the scheme: /tmp/x$'),
    (
      '~nobody9/x',
      "there is no user 'nobody9' on this machine; .* written ./~nobody9/x",
    ),
    ('a\nb', r"^--to='a\\nb' must not hold control characters"),
    ('a\0b', 'control characters'),
    ('a\udcffb', 'not UTF-8'),
  ],
)
def test_a_path_that_can_not_be_served_is_refused(text, message):
  with pytest.raises(UserError, match=message):
    user_path(text, '--to')


@pytest.mark.parametrize('name', ['r/br[x]', 'a*', 'b?', 'c]'])
def test_a_workdir_whose_name_is_a_pattern_is_refused(name, tmp_path, monkeypatch):
  assert user_path(name, 'f') == name
  with pytest.raises(UserError, match=r'must be a path without \[ \] \* and \?'):
    user_path(name, '--workdir', workdir=True)
  inside = tmp_path / name.split('/')[-1]
  inside.mkdir()
  monkeypatch.chdir(inside)
  with pytest.raises(UserError, match='rename a folder of .*/w, or choose another'):
    user_path('w', '--workdir', workdir=True)


def test_a_workdir_has_a_name():
  with pytest.raises(UserError, match="--workdir='' must name a folder"):
    user_path('', '--workdir', workdir=True)


def test_paths_in_a_config_are_expanded_but_what_a_resumed_run_compares(monkeypatch):
  monkeypatch.setenv('HOME', '/home/of')
  source = '~/a, hf:x/y,https://a.b/c,python:docs'
  run = config.Run(init_from='~/m', data=config.Data(source=source, tokens='~/t'))
  expand_paths(run)
  assert (run.init_from, run.data.tokens) == ('/home/of/m', '/home/of/t')
  assert run.data.source == source
  run.init_from = 'hf:gpt2'
  expand_paths(run)
  assert run.init_from == 'hf:gpt2'


@pytest.mark.parametrize('name', [*config.fields_with('place'), 'data.tokenizer'])
def test_every_path_of_a_config_is_checked(name):
  run = config.from_flat({name: 'gs://b/x'})
  with pytest.raises(UserError, match=f'^{name}=gs://b/x must be a path'):
    expand_paths(run)


def test_a_model_is_opened_from_a_path_as_the_command_line_takes_it(monkeypatch):
  monkeypatch.setenv('HOME', '/home/of')
  with pytest.raises(UserError, match='^/home/of/x is no workdir'):
    gpt_jax.load('~/x')
  with pytest.raises(UserError, match='^path=gs://b/x must be a path'):
    gpt_jax.load('gs://b/x')


def refused(code, *paths, places=()):
  return disk_error(OSError(code, os.strerror(code), *paths), places)


@pytest.mark.parametrize(
  ('code', 'remedy'),
  [
    ('ENOSPC', 'free disk space'),
    ('EDQUOT', 'quota'),
    ('EFBIG', 'ulimit -f'),
    ('EROFS', 'mounted for writing'),
    ('EACCES', 'permissions'),
    ('EPERM', 'permissions'),
    ('ENOTDIR', 'a file is where a folder is needed'),
    ('EISDIR', 'a folder is where a file is needed'),
    ('ENAMETOOLONG', 'shorter path'),
    ('EMFILE', 'ulimit -n'),
    ('EIO', 'check the disk'),
    ('ESTALE', 'mount the network disk again'),
    ('ENOLCK', 'can lock files'),
  ],
)
def test_what_the_disk_refuses_is_one_sentence_with_a_remedy(code, remedy):
  code = getattr(errno, code)
  text = refused(code, 'w/f')
  assert text.startswith(f'w/f: {os.strerror(code)}; ') and remedy in text
  assert '\n' not in text
  assert refused(code, None, places=['w']).startswith('a file in w: ')
  assert refused(code).startswith('a file: ')


def test_what_no_disk_refuses_is_a_bug(tmp_path):
  for code in (errno.EINVAL, errno.EBADF, errno.ECHILD, errno.EAGAIN):
    assert refused(code, 'w/f') == ''
  assert disk_error(ConnectionRefusedError(errno.ECONNREFUSED, 'refused')) == ''
  (tmp_path / 'file').write_text('')
  assert refused(errno.EEXIST, str(tmp_path)) == ''  # we made a folder twice
  assert 'a folder is needed' in refused(errno.EEXIST, str(tmp_path / 'file'))


def test_a_missing_file_is_a_message_only_where_a_place_of_the_user_is_gone(tmp_path):
  there, gone = tmp_path / 'there', tmp_path / 'gone'
  there.mkdir()

  def missing(path, *places):
    return refused(errno.ENOENT, str(path), places=[str(place) for place in places])

  assert missing(there / 'f', there) == '' == missing(gone / 'f') == missing('')
  assert missing(gone / 'f', there) == ''
  assert f'; {gone} is not there, or was removed' in missing(gone / 'a/f', there, gone)
  assert f'{there / "a"} is not there' in missing(there / 'a/f', there)
  assert f'{gone} is not there' in missing(gone / '.x.tmp', gone / 'x.png')
  assert missing(gone, gone / 'sub').endswith('; choose another path')
  assert 'tensorboard is not there' in disk_error(
    FileNotFoundError(errno.ENOENT, 'No', bytes(there / 'tensorboard/e')), [str(there)]
  )


def test_results_that_are_not_kept_are_said_to_be(tmp_path):
  ends = pytest.raises(UserError, match='^the results above are not kept: .*Is a direc')
  with ends, not_kept('the results above'):
    tmp_path.write_text('')
  with pytest.raises(FileNotFoundError), not_kept('the results above'):
    (tmp_path / 'a/b').write_text('')


def test_what_the_system_said_is_taken_out_of_a_long_text():
  text = (
    'RESOURCE_EXHAUSTED: Error writing "/a/b": No space left on device [OS error 28]'
  )
  assert said_by_system(text) == 'No space left on device'
  assert said_by_system('nothing of the kind') == ''


@pytest.mark.parametrize(
  'error, shown', [(RuntimeError('Event loop is closed'), 0), (KeyError('a'), 1)]
)
def test_only_what_orbax_left_behind_is_hidden(monkeypatch, error, shown):
  monkeypatch.setattr(sys, 'unraisablehook', sys.unraisablehook)
  hide_closed_loops()
  told = types.SimpleNamespace(exc_value=error, object=None)
  calls = []
  monkeypatch.setattr(sys, '__unraisablehook__', calls.append)
  sys.unraisablehook(told)
  assert len(calls) == shown
