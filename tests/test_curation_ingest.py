"""Raw files to shards: text of all formats, and the pages of crawls."""

import gzip
import io
import json
import pathlib
import zlib

import curation_corpus
import pytest

from gpt_jax.config import UserError
from gpt_jax.data.curation import engine, ingest, pipeline, shards, warc
from gpt_jax.data.curation.ingest import Source
from gpt_jax.data.curation.shards import read_shard

zstandard = pytest.importorskip('zstandard')
TEXTS = ['One text\nof two lines.', 'Zwei, mit ß.', 'три']


def read(tmp_path, *sources: Source, workers: int = 1):
  """Returns the documents of sources, and the report."""
  out = tmp_path / 'out'
  run = engine.local(workers, tmp_path / 'state')
  report = ingest.run(run, sources, str(out))
  return [d for path in shards.list_shards(out) for d in read_shard(path)], report


def json_lines(texts=TEXTS, field='text') -> bytes:
  return ''.join(json.dumps({field: text}) + '\n' for text in texts).encode()


def parquet(texts) -> bytes:
  pyarrow = pytest.importorskip('pyarrow')
  pytest.importorskip('pyarrow.parquet')
  out = io.BytesIO()
  pyarrow.parquet.write_table(pyarrow.table({'text': texts}), out)
  return out.getvalue()


@pytest.mark.parametrize(
  ('name', 'content', 'numbers'),
  [
    ('a.jsonl', json_lines, [1, 2, 3]),
    ('a.jsonl.gz', lambda: gzip.compress(json_lines()), [1, 2, 3]),
    ('a.jsonl.zst', lambda: zstandard.compress(json_lines()), [1, 2, 3]),
    ('a.jsonl', lambda: json_lines(['', *TEXTS]), [2, 3, 4]),
    ('a.parquet', lambda: parquet(TEXTS), [1, 2, 3]),
    ('a.txt', lambda: '\n~~\n'.join(TEXTS).encode(), [1, 2, 3]),
  ],
)
def test_documents_come_from_each_format_with_their_place(
  tmp_path, name, content, numbers
):
  path = tmp_path / name
  path.write_bytes(content())
  separator = '~~\n' if name == 'a.txt' else ''
  documents, report = read(tmp_path, Source('s', str(path), separator=separator))
  assert [d.text.rstrip('\n') for d in documents] == TEXTS
  assert [d.id for d in documents] == [f'{path}#{number}' for number in numbers]
  assert {d.source for d in documents} == {'s'} and report['kept'] == 3
  assert report['by_source'] == {'s': [3, sum(len(d.text) for d in documents)]}


def test_folders_globs_and_several_sources(tmp_path):
  folder = tmp_path / 'in' / 'deep'
  folder.mkdir(parents=True)
  for i in range(3):
    (folder / f'{i}.txt').write_text(f'text {i}')
  (folder / '._0.txt').write_text('junk')
  (folder / 'other.bin').write_text('none')
  documents, report = read(
    tmp_path,
    Source('all', str(tmp_path / 'in')),
    Source('one', f'{folder}/[01].txt'),
  )
  assert [(d.source, d.text) for d in documents] == [
    *(('all', f'text {i}') for i in range(3)),
    *(('one', f'text {i}') for i in range(2)),
  ]
  assert documents[0].id == f'{folder}/0.txt#1'
  assert report['by_source'] == {'all': [3, 18], 'one': [2, 12]}


def test_a_large_file_becomes_many_shards_and_small_files_one(tmp_path, monkeypatch):
  texts = [f'{i:03d}' * 10 for i in range(50)]
  (tmp_path / 'a.jsonl').write_bytes(json_lines(texts))
  for i in range(6):
    (tmp_path / f'b{i}.txt').write_text(f'{i}' * 40)
  monkeypatch.setattr(ingest, '_SHARD', 100)
  monkeypatch.setattr(ingest, '_TOGETHER', 100)
  documents, _ = read(tmp_path, Source('s', f'{tmp_path}/*.*'))
  assert [d.text for d in documents] == texts + [f'{i}' * 40 for i in range(6)]
  names = [path.rpartition('/')[2] for path in shards.list_shards(tmp_path / 'out')]
  assert [name[:5] for name in names].count('00000') == 13  # 4 of 30 characters fill it
  assert {name[:5] for name in names} == {'00000', '00001', '00002', '00003'}


def test_what_is_wrong_is_counted_or_said(tmp_path, monkeypatch):
  bad = tmp_path / 'bad.jsonl'
  bad.write_bytes(json_lines() + b'{"text": 3}\n' + b'no json\n')
  with pytest.raises(
    UserError, match=r"bad.jsonl: line 4: .*'s', \.\., bad_lines=\.\."
  ):
    read(tmp_path, Source('s', str(bad)))
  documents, report = read(tmp_path, Source('s', str(bad), bad_lines='skip'))
  assert len(documents) == 3 and report['bad lines'] == 2
  monkeypatch.setattr(ingest, '_LONGEST', 20)
  other = tmp_path / 'other'
  other.mkdir()
  (other / 'blank.txt').write_text(' \n ')
  (other / 'long.txt').write_text('x' * 21)
  (other / 'short.txt').write_text('x' * 20)
  documents, report = read(other, Source('s', str(other)))
  assert [d.text for d in documents] == ['x' * 20]
  assert report['dropped'] == {'longer than 20 characters': 1, 'no text': 1}
  assert report['examples']['no text'] == [
    {'id': f'{other}/blank.txt#1', 'text': ' \n '}
  ]


def test_sources_that_can_not_be_are_refused(tmp_path):
  (tmp_path / 'a.txt').write_text('x')
  (tmp_path / 'b.txt').write_text(' ')
  for sources, words in (
    ([Source('s', f'{tmp_path}/c*')], "source 's': no file matches"),
    ([Source('s', f'{tmp_path}/a.txt')] * 2, 'must have different names'),
    ([Source('s', f'{tmp_path}/b.txt')], "source 's' has no document.*no text"),
  ):
    with pytest.raises(UserError, match=words):
      read(tmp_path, *sources)
  with pytest.raises(UserError, match="errors='ignore' of source 's' must be strict"):
    Source('s', 'x', errors='ignore')


def record(kind: str, block: bytes, **fields: str) -> bytes:
  """Returns a WARC record."""
  fields = {
    'WARC-Type': kind,
    'WARC-Target-URI': 'http://example.org/',
    **{name.replace('_', '-'): value for name, value in fields.items()},
    'Content-Length': str(len(block)),
  }
  header = ''.join(f'{name}: {value}\r\n' for name, value in fields.items())
  return f'WARC/1.0\r\n{header}\r\n'.encode() + block + b'\r\n\r\n'


def answer(
  body: bytes, status: str = '200 OK', kind='text/html', **fields: str
) -> bytes:
  fields = {'Content-Type': kind, **fields}
  header = ''.join(f'{name.replace("_", "-")}: {v}\r\n' for name, v in fields.items())
  return f'HTTP/1.1 {status}\r\n{header}\r\n'.encode() + body


def test_the_text_of_wet_records(tmp_path):
  content = [
    record('warcinfo', b'software: x'),
    record('conversion', TEXTS[0].encode(), WARC_Date='2019-01-01T00:00:00Z'),
    record('conversion', b' \n'),
    b'damaged\r\nheader\r\n',
    record('conversion', TEXTS[1].encode()),
  ]
  path = tmp_path / 'x.warc.wet.gz'
  path.write_bytes(b''.join(map(gzip.compress, content)))
  documents, report = read(tmp_path, Source('crawl', str(path)))
  assert [d.text for d in documents] == TEXTS[:2]
  assert documents[0].meta == {
    'url': 'http://example.org/',
    'date': '2019-01-01T00:00:00Z',
  }
  assert [d.id for d in documents] == [f'{path}#1', f'{path}#4']
  assert report['dropped'] == {'damaged record': 1, 'no text': 1}


def page(*paragraphs: str) -> bytes:
  """Returns a page of paragraphs with a menu around them."""
  body = ''.join(f'<p>{text}</p>' for text in paragraphs)
  menu = '<nav><ul><li><a href="/">Home</a></li><li><a>Sign in</a></li></ul></nav>'
  return (
    f'<html><head><title>T</title><script>var x;</script></head><body>{menu}'
    f'<article>{body}</article><footer>All rights reserved</footer></body></html>'
  ).encode()


PARAGRAPHS = [
  'It was a bright morning, and the people of the town had gone out to the harbour.',
  'Nobody remembered when the last ship had come, or what it had brought them.',
]


def test_the_text_of_pages(tmp_path):
  pytest.importorskip('resiliparse')
  whole = page(*PARAGRAPHS)
  latin = page('Señor, ' + PARAGRAPHS[0]).decode().encode('latin-1')
  content = [
    record('request', b'GET / HTTP/1.1\r\n\r\n'),
    record('response', answer(whole)),
    record('response', answer(latin, kind='text/html; charset=ISO-8859-1')),
    record('response', answer(b'', status='404 Not Found')),
    record('response', answer(b'\x89PNG', kind='image/png')),
    record('response', b'nothing of HTTP'),
    record('response', answer(gzip.compress(whole), Content_Encoding='gzip')),
    record('response', answer(b'no gzip', Content_Encoding='gzip')),
    record('response', answer(b'<html></html>')),
    b'damaged\r\nheader\r\n',
    record('response', answer(whole)),
    b'WARC/1.0\r\nWARC-Type: response\r\nContent-Length: many\r\n\r\n',
    record('resource', whole, Content_Type='text/html'),
  ]
  path = tmp_path / 'x.warc'
  path.write_bytes(b''.join(content))
  documents, report = read(tmp_path, Source('crawl', str(path)))
  texts = [' '.join(d.text.split()) for d in documents]
  assert texts == [
    ' '.join(PARAGRAPHS),
    'Señor, ' + PARAGRAPHS[0],
    *[' '.join(PARAGRAPHS)] * 3,
  ]
  assert report['dropped'] == {
    'damaged answer': 2,
    'damaged record': 2,
    'no HTML': 1,
    'no text': 1,
    'status other than 200': 1,
  }


def test_a_body_in_chunks():
  body = b'abc' * 100
  chunked = b''.join(
    f'{len(part):x};x=y\r\n'.encode() + part + b'\r\n' for part in (body[:7], body[7:])
  )
  header = {'transfer-encoding': 'chunked'}
  assert warc._decoded(chunked + b'0\r\n\r\n', header) == body
  header['content-encoding'] = 'deflate'
  packed = zlib.compress(body)
  whole = f'{len(packed):x}\r\n'.encode() + packed + b'\r\n0\r\n\r\n'
  assert warc._decoded(whole, header) == body
  with pytest.raises(ValueError, match='br'):
    warc._decoded(body, {'content-encoding': 'br'})


def test_a_page_that_unpacks_to_too_much_is_not_read(monkeypatch):
  monkeypatch.setattr(warc, '_LARGEST', 5000)
  body = gzip.compress(bytes(6000))
  assert warc._decoded(body, {'content-encoding': 'gzip'}) is None
  content = record('conversion', b'x' * 6000) + record('conversion', b'y')
  pages = list(warc.pages(io.BytesIO(content), 'a.wet'))
  assert [each.reason for each in pages] == ['page of more than 32 MB', '']
  assert pages[1].text == 'y'


def test_a_file_that_is_cut_off_keeps_what_comes_before(tmp_path):
  content = b''.join(
    gzip.compress(record('conversion', f'text {i}'.encode() * 50)) for i in range(9)
  )
  path = tmp_path / 'x.warc.wet.gz'
  path.write_bytes(content[:-60])
  documents, report = read(tmp_path, Source('crawl', str(path)))
  assert len(documents) == 8 and report['dropped'] == {'damaged file': 1}
  with pytest.raises(UserError, match='y.wet does not begin as a WARC file'):
    list(warc.pages(io.BytesIO(b'<html>'), 'y.wet'))


def test_records_are_those_that_warcio_reads(tmp_path):
  warcio = pytest.importorskip('warcio')
  from warcio.statusandheaders import StatusAndHeaders
  from warcio.warcwriter import WARCWriter

  path = tmp_path / 'x.warc.gz'
  with open(path, 'wb') as stream:
    writer = WARCWriter(stream, gzip=True)
    for i in range(20):
      headers = StatusAndHeaders('200 OK', [('Content-Type', 'text/html')], 'HTTP/1.1')
      body = io.BytesIO(page(*PARAGRAPHS * i))
      writer.write_record(
        writer.create_warc_record(
          f'http://example.org/{i}', 'response', payload=body, http_headers=headers
        )
      )
  with open(path, 'rb') as stream:
    theirs = [
      (each.rec_headers.get_header('WARC-Target-URI'), each.raw_stream.read())
      for each in warcio.ArchiveIterator(stream, no_record_parse=True)
    ]
  with open(path, 'rb') as stream:
    ours = [
      (each.fields['warc-target-uri'], each.block)
      for each in warc.records(stream, str(path))
    ]
  assert ours == theirs and len(ours) == 20


@pytest.fixture
def memory():
  """fsspec's store in memory, empty."""
  fsspec = pytest.importorskip('fsspec')
  system = fsspec.filesystem('memory')
  system.store.clear()
  yield system
  system.store.clear()


def through_a_store(system, root: str):
  """Reads raw files from a store and writes shards to it."""
  system.pipe(f'{root}/raw/a.jsonl', json_lines())
  system.pipe(f'{root}/raw/b.txt', b'last')
  system.pipe(f'{root}/raw/c.warc.wet', record('conversion', b'of a crawl'))
  run = engine.local(1, f'{root}/state')
  report = ingest.run(run, [Source('s', f'{root}/raw')], f'{root}/out')
  names = shards.list_shards(f'{root}/out')
  documents = [d for path in names for d in read_shard(path)]
  assert [d.text for d in documents] == [*TEXTS, 'last', 'of a crawl']
  assert documents[1].id == f'{root}/raw/a.jsonl#2'
  assert report['kept'] == 5
  assert ingest.run(run, [Source('s', f'{root}/raw/*')], f'{root}/2', 'b')['kept'] == 5
  [file] = run.group('g', lengths, longest, names, 1)
  assert file.startswith(f'{root}/state/g/') and not shards.names_in(
    f'{root}/state/g/runs'
  )
  with pytest.raises(UserError, match='no file matches'):
    ingest.run(run, [Source('s', f'{root}/none')], f'{root}/3', 'c')


def lengths(path: str):
  for document in read_shard(path):
    yield b'%d' % len(document.text), document.id.encode()


def longest(key, values):
  yield key + b' ' + b','.join(values)


def every_stage_in_a_store(system, root: str, folder: pathlib.Path, patch):
  """Runs the stages that compare documents, in a folder and in a store."""
  curation_corpus.write_copies(folder)
  patch.chdir(folder)
  patch.setattr(ingest, '_TOGETHER', 1)
  for path in (str(folder / 'local'), root):
    run = engine.local(1, f'{path}/state')
    done = pipeline.run(curation_corpus.COMPARING, path, run)
  for each in done[1:]:
    report = each.report  # each stage had something to do
    assert report['dropped'] or report.get('cut'), each.name
  local = curation_corpus.content(folder / 'local')
  stored = {
    path.partition(root.partition('://')[2].strip('/') + '/')[2]: system.cat_file(path)
    for path in system.find(root)
  }
  stored = {n: each for n, each in stored.items() if not n.startswith('state/')}
  for every in (local, stored):
    every.pop('report.json')  # it has its own path
  assert stored == local and len(local) == 24


def test_urls_of_a_store_in_memory(memory, tmp_path, monkeypatch):
  through_a_store(memory, 'memory:///bucket')
  every_stage_in_a_store(memory, 'memory:///whole', tmp_path, monkeypatch)


def test_urls_of_a_local_s3(s3, tmp_path, monkeypatch):
  through_a_store(s3, 's3://bucket/corpus')
  every_stage_in_a_store(s3, 's3://bucket/whole', tmp_path, monkeypatch)


def test_a_url_that_can_not_be_opened_is_said():
  pytest.importorskip('fsspec')
  with pytest.raises(UserError, match='nowhere://x'):
    shards.names_in('nowhere://x')


def test_files_are_there_for_all_workers_alike(tmp_path):
  for i in range(5):
    (tmp_path / f'{i}.jsonl').write_bytes(json_lines([f'{i} {j}' for j in range(9)]))
  source = Source('s', str(tmp_path / '*.jsonl'))
  one = read(tmp_path / 'one', source)
  assert read(tmp_path / 'two', source, workers=2) == one
  assert (
    pathlib.Path(tmp_path / 'one/out/00000-00000.jsonl.zst').read_bytes()
    == (tmp_path / 'two/out/00000-00000.jsonl.zst').read_bytes()
  )
