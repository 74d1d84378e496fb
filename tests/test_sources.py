"""Sources of text and the formats of its files."""

import bz2
import gzip
import hashlib
import http.server
import io
import json
import lzma
import pathlib
import tarfile
import threading
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_jax.config import UserError
from gpt_jax.data import formats, pieces, sources


def texts(source, **how):
  return [document.text for document in sources.documents(str(source), **how)]


def names(source):
  return [pathlib.Path(d.name).name for d in sources.documents(str(source))]


def lines(*rows):
  return ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows).encode()


def test_a_folder_gives_its_texts_at_any_depth_in_sorted_order(tmp_path):
  for name in ('b.txt', 'a/z.txt', 'a/b.txt', 'c.TXT', 'picture.png', 'notes.md'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(name)
  assert texts(tmp_path) == ['a/b.txt', 'a/z.txt', 'b.txt', 'c.TXT']


def test_lists_globs_and_files_are_read_in_the_order_given(tmp_path):
  for name in ('1.txt', '2.txt', '3.md'):
    (tmp_path / name).write_text(name)
  assert texts(f'{tmp_path}/3.md, {tmp_path}/[12].txt') == ['3.md', '1.txt', '2.txt']


def test_a_path_may_hold_a_comma(tmp_path):
  (tmp_path / 'a,b.txt').write_text('text')
  assert texts(tmp_path / 'a,b.txt') == ['text']


def test_empty_files_are_no_documents(tmp_path):
  (tmp_path / 'a.txt').write_text('')
  (tmp_path / 'b.txt').write_text('b')
  assert texts(tmp_path) == ['b']


def test_line_ends_and_odd_characters_stay_and_a_byte_order_mark_goes(tmp_path):
  (tmp_path / 'a.txt').write_bytes('\ufeffa\r\nb\x00\x85\u2028é\ufeff'.encode())
  assert texts(tmp_path) == ['a\r\nb\x00\x85\u2028é\ufeff']


@pytest.mark.parametrize('at', [0, 5, formats._BLOCK - 1, formats._BLOCK + 3])
def test_invalid_utf8_is_an_error_that_names_line_and_byte(tmp_path, at):
  good = ('abc\n' * (at // 4 + 1)).encode()[:at]
  (tmp_path / 'a.txt').write_bytes(good + 'é'.encode()[:1] + b'x')
  wanted = f'a.txt: line {at // 4 + 1}, byte {at}: not UTF-8 .*errors=replace'
  with pytest.raises(UserError, match=wanted):
    texts(tmp_path)
  assert texts(tmp_path, errors='replace') == [good.decode() + '\ufffdx']


def test_a_character_may_lie_across_two_blocks(tmp_path):
  text = 'x' * (formats._BLOCK - 1) + '€' + 'y'
  (tmp_path / 'a.txt').write_text(text, encoding='utf-8')
  assert texts(tmp_path) == [text]


@pytest.mark.parametrize('source', ['missing.txt', 'empty', 'empty/*.txt'])
def test_a_source_without_a_file_is_an_error_that_names_it(tmp_path, source):
  (tmp_path / 'empty').mkdir()
  with pytest.raises(UserError, match=source.replace('*', r'\*')):
    texts(tmp_path / source)


def test_a_file_that_can_not_be_read_is_an_error_that_names_it(tmp_path):
  unreadable = pathlib.Path('/proc/self/mem')  # opens, but has nothing at its start
  if not unreadable.exists():
    pytest.skip('needs /proc')
  (tmp_path / 'a.txt').symlink_to(unreadable)
  with pytest.raises(UserError, match=r'a.txt: can not be read: Input/output error'):
    texts(tmp_path)


def test_parts_of_a_long_document_join_to_it_and_end_before_a_word():
  text = 'The quick brown fox. ' * (5 * pieces.PART // 21)
  parts = list(pieces.cut('name', [text[:1000], text[1000:]]))
  assert ''.join(part.text for part in parts) == text
  assert [part.first for part in parts] == [True] + [False] * (len(parts) - 1)
  assert len(parts) >= 4
  assert all(part.text[0] == ' ' and part.text[1].isalnum() for part in parts[1:])


def test_text_without_any_blank_is_cut_all_the_same():
  parts = list(pieces.cut('name', ['x' * (4 * pieces.PART)]))
  assert sum(len(part.text) for part in parts) == 4 * pieces.PART
  assert max(len(part.text) for part in parts) <= 2 * pieces.PART


def test_python_docs_are_large_english_and_free_of_repeated_docstrings():
  documents = sources.python_docs()
  assert sum(len(d.text) for d in documents) > 1_500_000
  assert sum(' the ' in d.text for d in documents) > len(documents) / 2
  assert len({d.name for d in documents}) == len(documents)
  # A docstring of three modules of asyncio.
  everything = '\n'.join(d.text for d in documents)
  assert everything.count('Close the transport immediately.\n\nBuffered data') == 1


PACKERS = {
  '.gz': gzip.compress,
  '.bz2': bz2.compress,
  '.xz': lzma.compress,
}


def zst(content):
  zstandard = pytest.importorskip('zstandard')
  return zstandard.ZstdCompressor().compress(content)


@pytest.mark.parametrize('suffix', ['.gz', '.bz2', '.xz', '.zst'])
@pytest.mark.parametrize('name', ['a.txt', 'a.jsonl', 'a.tar'])
def test_packed_files_read_as_what_they_unpack_to(tmp_path, suffix, name):
  pack = PACKERS.get(suffix, zst)
  content = {
    'a.txt': 'größer\n'.encode(),
    'a.jsonl': lines({'text': 'größer\n'}),
    'a.tar': tar({'deep/b.txt': 'größer\n'.encode(), 'readme.png': b'\xff'}),
  }[name]
  (tmp_path / (name + suffix)).write_bytes(pack(content))
  assert texts(tmp_path) == ['größer\n']


@pytest.mark.parametrize('suffix', ['.gz', '.bz2', '.xz', '.zst'])
def test_a_truncated_packed_file_is_an_error_that_names_it(tmp_path, suffix):
  pack = PACKERS.get(suffix, zst)
  packed = pack(''.join(map(str, range(20_000))).encode())
  (tmp_path / f'a.txt{suffix}').write_bytes(packed[: len(packed) // 2])
  with pytest.raises(UserError, match=f'a.txt{suffix}: damaged or truncated'):
    texts(tmp_path)


@pytest.mark.parametrize('suffix', ['.gz', '.bz2', '.xz', '.zst', '.tar', '.zip'])
def test_a_packed_file_of_something_else_is_an_error_that_names_it(tmp_path, suffix):
  if suffix == '.zst':
    pytest.importorskip('zstandard')
  (tmp_path / f'a{suffix}').write_bytes(b'This is not what its name says. ' * 40)
  with pytest.raises(UserError, match=f'a{suffix}'):
    texts(tmp_path / f'a{suffix}')


def test_zstandard_frames_that_follow_each_other_are_one_text(tmp_path):
  (tmp_path / 'a.txt.zst').write_bytes(zst(b'one ') + zst(b'') + zst(b'two'))
  assert texts(tmp_path) == ['one two']


def tar(members):
  out = io.BytesIO()
  with tarfile.open(fileobj=out, mode='w') as archive:
    for name, content in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
  return out.getvalue()


def test_the_texts_of_archives_are_documents_named_after_both(tmp_path):
  members = {
    'b.txt': b'first',
    'a.txt': b'second',
    'c.jsonl': lines({'text': 'third'}, {'text': 'fourth'}),
    'd.txt.gz': gzip.compress(b'fifth'),
    'e.png': b'\x89',
  }
  (tmp_path / '1.tgz').write_bytes(gzip.compress(tar(members)))
  with zipfile.ZipFile(tmp_path / '2.zip', 'w') as archive:
    for name, content in members.items():
      archive.writestr(name, content)
  assert texts(tmp_path) == 2 * ['first', 'second', 'third', 'fourth', 'fifth']
  assert names(tmp_path)[:4] == ['b.txt', 'a.txt', 'c.jsonl:1', 'c.jsonl:2']


def test_an_archive_without_text_is_an_error(tmp_path):
  (tmp_path / 'a.tar').write_bytes(tar({'a.png': b'x'}))
  with pytest.raises(UserError, match=r'a.tar: holds no .txt or .jsonl'):
    texts(tmp_path)


def test_json_lines_give_a_document_each_from_the_field_asked_for(tmp_path):
  rows = {'text': 'a', 'story': 'A'}, {'text': 'b\n', 'story': None}, {'story': 'C'}
  (tmp_path / 'a.jsonl').write_bytes(b'\xef\xbb\xbf' + lines(*rows) + b'\n  \n')
  assert texts(tmp_path, field='story') == ['A', 'C']


def test_a_lone_surrogate_in_json_becomes_the_replacement_character(tmp_path):
  (tmp_path / 'a.jsonl').write_bytes(b'{"text": "a\\ud800b"}')
  assert texts(tmp_path) == ['a\ufffdb']


@pytest.mark.parametrize(
  ('line', 'wanted'),
  [
    (b'{"text": ', 'line 2 is damaged: not JSON'),
    (b'["a"]', 'line 2: list instead of an object'),
    (b'{"text": 3}', "line 2: field 'text' is int, not text"),
    (b'{"txt": "a", "id": 1}', r"no field 'text'; the fields are 'txt', 'id'.*txt"),
  ],
)
def test_a_bad_line_stops_or_is_left_out_and_told(tmp_path, line, wanted):
  (tmp_path / 'a.jsonl').write_bytes(lines({'text': 'a'}) + line + b'\n')
  with pytest.raises(UserError, match=f'a.jsonl: .*{wanted}'):
    texts(tmp_path)
  told = []
  assert texts(tmp_path, skip=told.append) == ['a']
  assert len(told) == 1 and 'line 2' in told[0]


def test_a_file_of_bad_lines_only_is_an_error_even_when_they_may_be_left_out(tmp_path):
  (tmp_path / 'a.jsonl').write_bytes(lines({'body': 'a'}, {'body': 'b'}))
  with pytest.raises(UserError, match="every line was left out.*'body'"):
    texts(tmp_path, skip=lambda _: None)


def test_invalid_utf8_in_json_lines_names_line_and_byte(tmp_path):
  (tmp_path / 'a.jsonl').write_bytes(lines({'text': 'a'}) + b'{"text": "\xff"}')
  with pytest.raises(UserError, match='line 2, byte 24: not UTF-8'):
    texts(tmp_path)


def test_a_parquet_column_gives_a_document_a_row(tmp_path):
  pyarrow = pytest.importorskip('pyarrow')
  parquet = pytest.importorskip('pyarrow.parquet')
  table = pyarrow.table({'text': ['a', None, 'ß'] * 300, 'id': range(900)})
  parquet.write_table(table, tmp_path / 'a.parquet', row_group_size=100)
  assert texts(tmp_path) == ['a', 'ß'] * 300
  with pytest.raises(UserError, match="no column 'txt'; the columns are 'text', 'id'"):
    texts(tmp_path, field='txt')
  with pytest.raises(UserError, match="column 'id' is int, not text"):
    texts(tmp_path, field='id')
  content = (tmp_path / 'a.parquet').read_bytes()
  (tmp_path / 'a.parquet').write_bytes(content[: len(content) // 2])
  with pytest.raises(UserError, match=r'a.parquet: not a Parquet file, or damaged'):
    texts(tmp_path)


def test_hugging_face_data_sets_are_read_from_their_folders(tmp_path):
  datasets = pytest.importorskip('datasets')
  rows = datasets.Dataset.from_dict({'text': ['a', 'b'], 'id': [1, 2]})
  rows.save_to_disk(str(tmp_path / 'saved'))
  split = datasets.DatasetDict({'train': rows, 'test': rows.select([1])})
  split.save_to_disk(str(tmp_path / 'dict'))
  (tmp_path / 'files').mkdir()
  (tmp_path / 'files' / 'train.jsonl').write_bytes(lines({'text': 'c'}, {'text': 'd'}))
  assert texts(f'hf:{tmp_path}/saved') == ['a', 'b']
  assert texts(f'hf:{tmp_path}/dict:test') == ['b']
  assert texts(f'hf:{tmp_path}/files') == ['c', 'd']
  with pytest.raises(UserError, match="no split 'dev', only train, test"):
    texts(f'hf:{tmp_path}/dict:dev')
  with pytest.raises(UserError, match="no column 'body'; the columns are 'text', 'id'"):
    texts(f'hf:{tmp_path}/saved', field='body')
  with pytest.raises(UserError, match='hf:.*nowhere'):
    texts(f'hf:{tmp_path}/nowhere')


@pytest.fixture
def server(tmp_path):
  """A web server of one folder: gives the folder, the address and what was asked."""
  folder, asked = tmp_path / 'web', []
  folder.mkdir()

  class Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *args):
      super().__init__(*args, directory=str(folder))

    def log_message(self, form, *args):
      asked.append(self.path)

  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as running:
    threading.Thread(target=running.serve_forever).start()
    yield folder, f'http://127.0.0.1:{running.server_port}', asked
    running.shutdown()


def test_a_web_file_is_fetched_once_checked_and_read_by_its_suffix(
  tmp_path, server, monkeypatch
):
  folder, address, asked = server
  cache = tmp_path / 'cache'
  monkeypatch.setenv('GPT_JAX_CACHE', str(cache))
  content = gzip.compress(lines({'text': 'a'}))
  (folder / 'a.jsonl.gz').write_bytes(content)
  sha256 = hashlib.sha256(content).hexdigest()
  for _ in range(2):
    assert texts(f'{address}/a.jsonl.gz', sha256=sha256) == ['a']
  assert len(asked) == 1
  next(cache.iterdir()).write_bytes(b'damaged')
  assert texts(f'{address}/a.jsonl.gz', sha256=sha256) == ['a']
  assert len(asked) == 2
  with pytest.raises(UserError, match=f'its sha256 is {sha256}, not 00'):
    texts(f'{address}/a.jsonl.gz', sha256='00')
  with pytest.raises(UserError, match='b.txt: can not be fetched.*data.source=PATH'):
    texts(f'{address}/b.txt', sha256='00')
  with pytest.raises(UserError, match='has no checksum'):
    texts(f'{address}/a.jsonl.gz')
  assert len(list(cache.iterdir())) == 1  # no half-fetched file


@given(st.lists(st.text(), max_size=5))
@settings(max_examples=50, deadline=None)
def test_any_text_comes_back_from_json_lines_and_plain_files(tmp_path_factory, wanted):
  folder = tmp_path_factory.mktemp('any')
  wanted = [t.encode('utf-8', 'replace').decode() for t in wanted]
  (folder / 'a.jsonl').write_bytes(lines(*({'text': text} for text in wanted)))
  for i, text in enumerate(wanted):
    (folder / f'b{i}.txt').write_bytes(text.encode())
  expected = [text for text in wanted if text]
  plain = [text.removeprefix('\ufeff') for text in wanted]
  assert texts(folder) == expected + [text for text in plain if text]
