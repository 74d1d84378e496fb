"""Raw files into shards: text, JSON lines, Parquet, WET, and the HTML of WARC.

Each file's documents are read as they stream, so that a corpus may be larger than
memory. Small files are read together; of a large one, a process writes many shards.
"""

import contextlib
import dataclasses
import functools
import glob
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.config import UserError
from gpt_jax.data.curation import warc
from gpt_jax.data.curation.engine import Engine
from gpt_jax.data.curation.shards import (
  SUFFIX,
  Document,
  find,
  is_url,
  joined,
  opened,
  write_shard,
)
from gpt_jax.data.curation.stages import Tally, total
from gpt_jax.data.formats import How, is_junk, is_text, read_file
from gpt_jax.data.sources import split_list
from gpt_jax.tokenizers.texts import encodable

_TOGETHER = 1 << 26  # bytes of files that are read as one item, as they are on disk
_SHARD = 1 << 25  # characters of a shard, about
_LONGEST = 1 << 24  # characters of a document; a novel has some million


@dataclasses.dataclass(frozen=True)
class Source:
  """Where documents come from.

  Attributes:
    name: in reports, and in the settings of stages.
    paths: comma-separated files, folders (what can be read in them), globs and URLs.
    field: of a JSON line or a column of a table that holds the text.
    separator: between the documents of a plain text; '': a file is one document.
    errors: 'strict' stops at invalid UTF-8, 'replace' reads U+FFFD in its place.
    bad_lines: 'stop' at a JSON line without text, or 'skip' and count it.
  """

  name: str
  paths: str
  field: str = 'text'
  separator: str = ''
  errors: str = 'strict'
  bad_lines: str = 'stop'

  def __post_init__(self):
    for name, choices in (
      ('errors', ('strict', 'replace')),
      ('bad_lines', ('stop', 'skip')),
    ):
      if getattr(self, name) not in choices:
        raise UserError(
          f'{name}={getattr(self, name)!r} of source {self.name!r} must be '
          f'{" or ".join(choices)}'
        )


class File(NamedTuple):
  """A file of a source.

  Attributes:
    path: as it was given, of which the ids of documents are made.
    place: where it is, for any process; a URL, or an absolute path.
    size: in bytes; if that changed, so did the file.
  """

  path: str
  place: str
  size: int


def files(source: Source) -> list[File]:
  """Returns the files of a source, sorted within each entry of its paths.

  Raises:
    UserError: an entry matches none.
  """
  every = []
  for entry in split_list(source.paths):
    matches = find(entry) if is_url(entry) else _local(entry)
    named = len(matches) == 1 and matches[0][0] == entry
    matches = [
      File(path, path if is_url(path) else os.path.abspath(path), size)
      for path, size in sorted(matches)
      if named or (_reads(path) and not is_junk(path))
    ]
    if not matches:
      raise UserError(
        f'source {source.name!r}: no file matches {entry} (from {os.getcwd()}); give '
        'a .txt, .jsonl, .parquet, .warc.gz or .warc.wet.gz file, a folder of them, a '
        'glob or a URL'
      )
    every += matches
  return every


def _local(entry: str) -> list[tuple[str, int]]:
  """Returns the files that a path, a folder or a glob stands for, with their sizes."""
  path = Path(entry).expanduser()
  if path.is_file():
    return [(str(path), path.stat().st_size)]
  paths = (
    path.rglob('*')
    if path.is_dir()
    else map(Path, glob.glob(str(path), recursive=True))
  )
  return [(str(each), each.stat().st_size) for each in paths if each.is_file()]


def _reads(name: str) -> bool:
  return is_text(name) or warc.is_warc(name)


def run(
  engine: Engine, sources: Sequence[Source], output: str, name: str = 'ingest'
) -> dict[str, Any]:
  """Writes the documents of sources as shards, and returns a report.

  Args:
    output: folder of the shards.
    name: of the work, as in `Engine.map`.

  Returns:
    As `stages.total`.

  Raises:
    UserError: two sources have one name, a file is damaged, or a source has no
      document.
  """
  names = [source.name for source in sources]
  if len(set(names)) < len(names):
    raise UserError(f'sources={names} must have different names')
  groups = [(source, each) for source in sources for each in _groups(files(source))]
  report = total(engine.map(name, functools.partial(_read, output), enumerate(groups)))
  for source in names:
    if source not in report['by_source']:
      raise UserError(
        f'source {source!r} has no document: dropped were {report["dropped"] or "none"}'
      )
  return report


def _groups(every: Iterable[File]) -> Iterator[tuple[File, ...]]:
  """Yields files that are read together, in their order."""
  group, size = [], 0
  for file in every:
    if group and size + file.size > _TOGETHER:
      yield tuple(group)
      group, size = [], 0
    group.append(file)
    size += file.size
  if group:
    yield tuple(group)


def _read(
  output: str, numbered: tuple[int, tuple[Source, Sequence[File]]]
) -> dict[str, Any]:
  """Writes the documents of some files as shards, and returns the counts."""
  number, (source, group) = numbered
  tally = Tally()
  each = itertools.chain.from_iterable(
    _documents(file, source, tally) for file in group
  )
  for shard in itertools.count():
    first = next(each, None)
    if first is None and shard:
      break
    path = joined(output, f'{number:05d}-{shard:05d}{SUFFIX}')
    write_shard(path, _until_full(first, each) if first else ())
  return tally.result()


def _until_full(first: Document, others: Iterator[Document]) -> Iterator[Document]:
  """Yields documents until a shard is full."""
  yield first
  size = len(first.text)
  while size < _SHARD and (document := next(others, None)):
    yield document
    size += len(document.text)


def _documents(file: File, source: Source, tally: Tally) -> Iterator[Document]:
  """Yields the documents of a file that have text, and counts the others."""
  crawled = warc.is_warc(file.path)
  each = _pages(file, source) if crawled else _texts(file, source, tally)
  for document, reason in each:
    if reason:
      tally.drop(reason, document)
    else:
      tally.keep(document)
      yield document


def _pages(file: File, source: Source) -> Iterator[tuple[Document, str]]:
  """Yields each page of a crawl, with the reason to drop it."""
  with opened(file.place) as stream:
    for number, page in enumerate(warc.pages(stream, file.path), 1):
      id, text = f'{file.path}#{number}', encodable(page.text)
      yield Document(id, source.name, text, page.meta), page.reason


def _texts(file: File, source: Source, tally: Tally) -> Iterator[tuple[Document, str]]:
  """Yields each document of a text, JSON lines or table, with the reason likewise."""
  skip = (lambda _: tally.count('bad lines')) if source.bad_lines == 'skip' else None
  how = How(source.errors, source.field, skip, source.separator)
  name, texts, size = '', [], 0

  def whole() -> tuple[Document, str]:
    document = Document(_numbered(name), source.name, ''.join(texts), {})
    if size > _LONGEST:
      return document, f'longer than {_LONGEST:,} characters'
    return document, '' if document.text.strip() else 'no text'

  with _on_disk(file.place) as local, _about(file, local, source):
    for part in read_file(Path(local), how):
      if part.first:
        if name:
          yield whole()
        name, texts, size = file.path + part.name.removeprefix(local), [], 0
      size += len(part.text)
      if size <= _LONGEST:
        texts.append(part.text)
  if name:
    yield whole()


def _numbered(name: str) -> str:
  """Returns the id of a document, PATH#NUMBER, of its name among parts."""
  path, number = re.fullmatch(r'(.*?)(?::(\d+))?', name, re.DOTALL).groups()
  return f'{path}#{number or 1}'


@contextlib.contextmanager
def _on_disk(path: str) -> Iterator[str]:
  """Yields the path of a file on this machine: of a URL, that of a copy for now."""
  if not is_url(path):
    yield path
    return
  with tempfile.TemporaryDirectory() as folder:
    local = os.path.join(folder, path.rpartition('/')[2])
    with opened(path) as stream, open(local, 'wb') as copy:
      shutil.copyfileobj(stream, copy)
    yield local


@contextlib.contextmanager
def _about(file: File, local: str, source: Source) -> Iterator[None]:
  """Has what is wrong with a file said with its own name and that of the source."""
  try:
    yield
  except UserError as error:
    text = str(error).replace(local, file.path).replace(' (tokenize: --field)', '')
    setting = rf'Source({source.name!r}, .., \1=..)'
    text = re.sub(r'--config\.data\.(\w+)(?:=\w+)?', setting, text)
    raise UserError(text) from error
