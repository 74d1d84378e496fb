"""What a first reading says: files left out, texts of other formats."""

import io
import json
import tarfile
import zipfile

import pytest

from gpt_jax.config import Data, UserError
from gpt_jax.data import formats, notices, pieces, sources, split

OBJECTS = [{'text': 'Tom went home.', 'id': 1}, {'text': 'Ann "too".', 'id': 2}]
PROSE = 'He wrote: [sic] {so} a < b, and <unk> </s> went on. ' * 40


def read(source, **how):
  """Returns the texts of a source, and what is noticed."""
  noticed = notices.Notices()
  parts = []
  for part in sources.parts(str(source), tell=noticed.tell, **how):
    noticed.watch(part)
    parts.append(part.text)
  return parts, noticed.lines()


JUNK = ('__MACOSX/._a.txt', '__MACOSX/b.txt', 'deep/._c.txt')


@pytest.mark.parametrize('form', ['folder', 'zip', 'tar', 'glob'])
def test_files_of_an_operating_system_are_left_out_and_counted(tmp_path, form):
  junk = b'\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        \xff'  # an AppleDouble head
  members = {'a.txt': b'text', **dict.fromkeys(JUNK, junk)}
  source = tmp_path / f'a.{form}'
  if form == 'zip':
    with zipfile.ZipFile(source, 'w') as archive:
      for name, content in members.items():
        archive.writestr(name, content)
  elif form == 'tar':
    with tarfile.open(source, 'w') as archive:
      for name, content in members.items():
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
  else:
    for name, content in members.items():
      (source / name).parent.mkdir(parents=True, exist_ok=True)
      (source / name).write_bytes(content)
  asked = f'{source}/**/*.txt' if form == 'glob' else source
  found, lines = read(asked)
  assert found == ['text']
  count = 1 if form == 'glob' else 3  # a * matches no name that begins with a dot
  assert lines == [
    f'left out {count} file(s) that an operating system put there; the first: '
    f'{source}/__MACOSX/{"b" if form == "glob" else "._a"}.txt'
  ]


def test_a_folder_or_archive_of_such_files_alone_is_an_error(tmp_path):
  (tmp_path / 'a').mkdir()
  (tmp_path / 'a/._x.txt').write_bytes(b'\xff')
  with pytest.raises(UserError, match='no text in the folder'):
    read(tmp_path / 'a')
  with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
    archive.writestr('__MACOSX/x.txt', 'x')
  with pytest.raises(UserError, match=r'holds no \.txt'):
    read(tmp_path / 'a.zip')
  assert read(tmp_path / 'a/._x.txt', errors='replace')[0] == ['\ufffd']  # asked for


@pytest.mark.parametrize(
  ('name', 'junk'),
  [
    ('Thumbs.db', True),
    ('a/desktop.ini', True),
    ('a\\.DS_Store', True),
    ('a/_x.txt', False),
    ('MACOSX/x.txt', False),
    ('a.__MACOSX', False),
    ('.x.txt', False),
  ],
)
def test_what_an_operating_system_puts_there(name, junk):
  assert formats.is_junk(name) == junk


@pytest.mark.parametrize(
  ('content', 'wanted'),
  [
    (json.dumps(OBJECTS), '1 document(s) that begin like JSON'),
    ('\n'.join(map(json.dumps, OBJECTS)), '1 document(s) that begin like JSON'),
    (json.dumps(OBJECTS, indent=2), '1 document(s) that begin like JSON'),
    ('["a text", "another"]', '1 document(s) that begin like JSON'),
    ('["Hello", he said] and', None),
    ('[1] A note.\n{sic}', None),
    ('{"not": json', None),
    ('[' * 10**5, None),
    ('Tom went.'.encode('utf-16-le').decode(), '1 document(s) of which 10 % or more'),
    ('\0' + 'a' * 9, '1 document(s) of which 10 % or more are NUL'),
    ('\0' + 'a' * 10, None),
    ('<!DOCTYPE html>\n<title>x', '1 document(s) that look like HTML or XML'),
    ('\n<?xml version="1.0"?><a>b', '1 document(s) that look like HTML or XML'),
    ('<p>Tom <b>went</b> home.</p>\n' * 9, '1 document(s) that look like HTML or XML'),
    (PROSE, None),
    (f'One.\n{pieces.__doc__}<|endoftext|>\n', '1 document(s) with <|endoftext|> in'),
  ],
)
def test_text_of_another_format_is_said_and_read_as_it_is(tmp_path, content, wanted):
  (tmp_path / 'a.txt').write_bytes(content.encode())
  (tmp_path / 'b.txt').write_text('Plain text.')
  found, lines = read(tmp_path)
  assert found == [content, 'Plain text.']
  assert len(lines) == (wanted is not None)
  assert not wanted or lines[0].startswith(wanted)
  assert not wanted or lines[0].endswith('the first: ' + str(tmp_path / 'a.txt'))


def test_documents_are_counted_over_all_their_parts(tmp_path, monkeypatch):
  monkeypatch.setattr(pieces, 'PART', 100)
  (tmp_path / 'a.txt').write_text('a' * 900 + '\0' * 100)
  (tmp_path / 'b.txt').write_text('\0' * 100 + 'a' * 901)
  assert '1 document(s) of which 10 %' in read(tmp_path)[1][0]


def test_a_separator_is_advised_and_its_absence_told(tmp_path):
  (tmp_path / 'a.txt').write_text('One.\n<|endoftext|>\nTwo.\n')
  found, (line,) = read(tmp_path)
  assert len(found) == 1
  assert "--config.data.separator='<|endoftext|>' makes documents" in line
  assert read(tmp_path, separator='<|endoftext|>') == (['One.\n', 'Two.\n'], [])
  _, lines = read(tmp_path, separator='#')
  assert lines[0].startswith('data.separator divides nothing in 1 file(s)')


@pytest.mark.parametrize('indent', [None, 2])
def test_a_json_file_is_a_list_of_objects_or_an_object_a_line(tmp_path, indent):
  path = tmp_path / 'a.json'
  path.write_text(' \n' + json.dumps(OBJECTS, indent=indent))
  assert read(path)[0] == ['Tom went home.', 'Ann "too".']
  path.write_text('\n'.join(map(json.dumps, OBJECTS)))
  assert read(path)[0] == ['Tom went home.', 'Ann "too".']
  path.write_text(json.dumps([*OBJECTS, 'text', {'id': 3}]))
  with pytest.raises(UserError, match='entry 3: str instead of an object with fields'):
    read(path)
  left_out = []
  assert len(read(path, skip=left_out.append)[0]) == 2 == len(left_out)
  path.write_text('[1, 2]')
  with pytest.raises(UserError, match='every entry was left out; .*entry 2: int inst'):
    read(path, skip=left_out.append)


@pytest.mark.parametrize(
  ('content', 'wanted'),
  [
    ('[{"text": "a"}', 'a.json is damaged: not JSON.*; give a list of objects, or'),
    (
      '{\n "data": []\n}',
      r'a\.json: line 1 is damaged: not JSON .*; give a list of objects, or an ob',
    ),
    ('[' * 200 + ']' * 200, 'nested too deeply'),
    ('[]', None),
  ],
)
def test_other_json_is_refused_by_name(tmp_path, content, wanted):
  (tmp_path / 'a.json').write_text(content)
  if not wanted:
    assert read(tmp_path / 'a.json')[0] == []
    return
  with pytest.raises(UserError, match=wanted):
    read(tmp_path / 'a.json')


def test_a_json_list_that_is_too_large_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(formats, '_LARGEST', 20)
  (tmp_path / 'a.json').write_text(json.dumps(OBJECTS))
  with pytest.raises(UserError, match='more than 20 bytes are too many.*as .jsonl'):
    read(tmp_path / 'a.json')


def test_a_look_says_what_is_noticed_of_both_sources(tmp_path):
  (tmp_path / 'a.txt').write_text('<html>')
  (tmp_path / 'b.txt').write_text('<html>')
  data = Data(source=str(tmp_path / 'a.txt'), valid=str(tmp_path / 'b.txt'))
  lines = split.look(data, print).lines
  assert lines[0].startswith('2 document(s) that look like HTML')
  assert len(lines) == 2 and 'letter for letter' in lines[1]
