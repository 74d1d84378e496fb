"""Files: what is damaged is named, with its line; what is written is whole."""

import math
import os
import subprocess
import sys

import pytest

from gpt_jax import files
from gpt_jax.config import UserError


def test_a_damaged_json_file_is_named_with_its_line(tmp_path):
  path = tmp_path / 'a.json'
  for text, says in (
    ('{"a": 1,\n "b": }', r'line 2, column 7'),
    ('[' * 100_000, 'nested too deeply'),
    ('[1]', 'list instead of an object'),
    ('9' * 5000, 'digits'),
  ):
    path.write_text(text)
    with pytest.raises(UserError, match=rf'a\.json is damaged: .*{says}'):
      files.read_json(path)


def test_files_that_can_not_be_read_are_named(tmp_path):
  with pytest.raises(UserError, match=r'a\.json can not be read: No such file'):
    files.read_json(tmp_path / 'a.json')
  with pytest.raises(UserError, match='Is a directory'):
    files.read_json(tmp_path)
  (tmp_path / 'latin').write_bytes(b'ab\xe9c')
  with pytest.raises(UserError, match='byte 2 is not UTF-8'):
    files.read_text(tmp_path / 'latin')
  with pytest.raises(UserError, match='4 bytes are more than the 3'):
    files.read_text(tmp_path / 'latin', most=3)


def test_json_lines_lose_only_a_last_line_that_was_cut_off(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_text('{"a": 1}\n{"a": 2}\n{"a"')
  assert files.read_json_lines(path) == [{'a': 1}, {'a': 2}]
  for line in ('{"a": 2', '7', ''):
    path.write_text(f'{{"a": 1}}\n{line}\n')
    with pytest.raises(UserError, match='line 2 is damaged'):
      files.read_json_lines(path)


def test_json_is_written_whole_and_without_nan(tmp_path):
  path = tmp_path / 'a.json'
  files.write_json(path, {'a': 1})
  with pytest.raises(ValueError, match='JSON'):
    files.write_json(path, {'a': math.nan})
  assert files.read_json(path) == {'a': 1}
  assert [p.name for p in tmp_path.iterdir()] == ['a.json']


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
  with subprocess.Popen([sys.executable, '-c', '']) as ended:
    pass
  kept = f'.a.json.{os.getpid()}.tmp', 'b.json', '.c.tmp', f'.d.{os.getpid()}.tmp'
  for name in (*kept, f'.a.json.{ended.pid}.tmp'):
    (tmp_path / name).write_text('')
  (tmp_path / f'.tokenizer.{ended.pid}.tmp/inner').mkdir(parents=True)
  files.clear_temporaries(tmp_path)
  assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_a_file_that_can_not_be_written_stays_as_it_was(tmp_path):
  path = tmp_path / 'a.txt'
  files.write_whole(path, 'before')
  with pytest.raises(UnicodeEncodeError):
    files.write_whole(path, 'after \ud800')
  assert path.read_text() == 'before'
  assert [p.name for p in tmp_path.iterdir()] == ['a.txt']


def test_a_byte_order_mark_is_no_text(tmp_path):
  (tmp_path / 'a').write_bytes(b'\xef\xbb\xbf{"a": 1}')
  assert files.read_text(tmp_path / 'a') == '{"a": 1}'
  assert files.read_json(tmp_path / 'a') == {'a': 1}


@pytest.mark.parametrize(
  ('kind', 'good', 'bad'),
  [
    (int, [0, -3, 2**63 - 1], [True, 1.0, '1', 2**63, None]),
    (float, [1, 1.5, -2e300], [True, math.inf, math.nan, '1', 10**400]),
    (bool, [True, False], [0, 1, 'true']),
    (str, ['', 'a'], [1, None, ['a']]),
  ],
)
def test_values_of_json_are_of_their_kind(kind, good, bad):
  for value in good:
    assert files.of_kind(value, kind, 'f') is value
  for value in bad:
    with pytest.raises(UserError, match='^f is damaged'):
      files.of_kind(value, kind, 'f')
