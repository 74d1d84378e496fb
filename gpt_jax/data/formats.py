"""Formats of text files: plain, JSON, JSON lines, Parquet; packed or not.

What is read comes as *parts* of about 260,000 characters, so that a document larger
than memory can be prepared.
"""

import bz2
import codecs
import gzip
import importlib
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from gpt_jax.config import UserError, nearest
from gpt_jax.data.pieces import Part, cut, divided
from gpt_jax.files import brief, lines, listed, parse_json
from gpt_jax.tokenizers.texts import encodable

_BLOCK = 1 << 18  # bytes read at once
_PACKED = 1 << 9  # bytes of Zstandard unpacked at once: they become 16 MB at most
_LINES = '.jsonl', '.ndjson'
_LARGEST = 1 << 30  # bytes of a JSON list, which is read whole
_PLAIN = '.txt', *_LINES, '.tar'  # what may be packed


class How(NamedTuple):
  """How to read.

  Attributes:
    errors: 'strict' stops at invalid UTF-8, 'replace' reads U+FFFD in its place.
    field: the field or column that holds the text, where there are several.
    skip: called with each line that is no object with that field, which is then left
      out; None: such a line is an error.
    separator: between the documents of a plain text; '': it is one document.
    tell: called with a kind of `notices.KINDS` and the name of a file, which was left
      out, or is not as `separator` expects.
  """

  errors: str = 'strict'
  field: str = 'text'
  skip: Callable[[str], None] | None = None
  separator: str = ''
  tell: Callable[[str, str], None] = lambda kind, name: None


def is_text(name: str) -> bool:
  """Returns whether a file in a folder is text that can be read, by its name."""
  return name.lower().endswith(('.parquet', '.zip')) or _is_stream(name)


def is_junk(name: str) -> bool:
  """Returns whether an operating system made a file, beside those of the user.

  Finder's and its archiver's (__MACOSX, ._NAME, .DS_Store), Explorer's (Thumbs.db,
  desktop.ini).
  """
  *folders, own = name.replace('\\', '/').split('/')
  if '__MACOSX' in folders or own.startswith('._'):
    return True
  return own.lower() in ('.ds_store', 'thumbs.db', 'desktop.ini')


def _is_stream(name: str) -> bool:
  """Returns whether a file can be read from its first byte to its last, by its name."""
  kind = _kind(name)
  for suffix in _UNPACK:
    kind = kind.removesuffix(suffix)
  return kind.endswith(_PLAIN)


def _kind(name: str) -> str:
  """Returns a file name in lower case, .tgz written out."""
  name = name.lower()
  return f'{name[:-4]}.tar.gz' if name.endswith('.tgz') else name


def read_file(path: Path, how: How) -> Iterator[Part]:
  """Yields the parts of a file in the format that its name tells; else plain text.

  Raises:
    UserError: it can't be read, is damaged, or holds what `how` does not allow.
  """
  name = str(path)
  try:
    if path.suffix.lower() == '.parquet':
      yield from _parquet(path, how)
    elif path.suffix.lower() == '.zip':
      yield from _zip(path, how)
    else:
      with open(path, 'rb') as stream:
        yield from _stream(name, _kind(name), stream, how)
  except UserError:
    raise
  except (*_DAMAGED, *_zst_errors()) as e:
    if 'too much memory' in str(e):
      raise UserError(
        f'{name}: was packed with a window of more than 128 MB; pack it again without '
        '--long and --ultra'
      ) from e
    raise UserError(f'{name}: damaged or truncated ({brief(e)}); fetch it again') from e
  except OSError as e:
    raise UserError(f'{name}: can not be read: {e.strerror or brief(e)}') from e


_DAMAGED = (
  EOFError,
  zlib.error,
  gzip.BadGzipFile,
  lzma.LZMAError,
  tarfile.TarError,
  zipfile.BadZipFile,
)


def _stream(name: str, kind: str, stream: BinaryIO, how: How) -> Iterator[Part]:
  """Yields the parts of a stream; `kind` is its name without what was unpacked."""
  for suffix, unpack in _UNPACK.items():
    if kind.endswith(suffix):
      yield from _stream(name, kind.removesuffix(suffix), unpack(stream), how)
      return
  if kind.endswith('.tar'):
    yield from _tar(name, stream, how)
  elif kind.endswith(_LINES):
    yield from _json_lines(name, stream, how)
  elif kind.endswith('.json'):
    begin = stream.peek(64)[:64].removeprefix(codecs.BOM_UTF8).lstrip()
    if begin.startswith(b'['):
      yield from _json_list(name, stream, how)
    else:
      yield from _json_lines(name, stream, how, f'{_OR_LINES}; or {_MEND}')
  elif how.separator:
    texts, missed = _decode(stream, name, how.errors), partial(how.tell, 'whole', name)
    yield from divided(name, texts, how.separator, missed)
  else:
    yield from cut(name, _decode(stream, name, how.errors))


class _Zst(io.RawIOBase):
  """What a Zstandard stream unpacks to; unlike zstandard's own, it sees truncation."""

  def __init__(self, stream: BinaryIO, window: int):
    zstandard = imported('zstandard', 'a .zst file')
    self._new = zstandard.ZstdDecompressor(max_window_size=window).decompressobj
    self._frame, self._stream, self._left = self._new(), stream, b''
    self._begun = False

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: memoryview) -> int:
    while not self._left:
      packed = self._frame.unused_data if self._frame.eof else b''
      if self._frame.eof:  # one frame may follow another
        self._frame, self._begun = self._new(), False
      packed = packed or self._stream.read(_PACKED)
      if not packed:
        if self._begun:
          raise EOFError('the last Zstandard frame has no end')
        return 0
      self._begun = True
      self._left = self._frame.decompress(packed)
    size = min(len(buffer), len(self._left))
    buffer[:size], self._left = self._left[:size], self._left[size:]
    return size


def unpack_zst(stream: BinaryIO, window: int = 0) -> BinaryIO:
  """Returns what a Zstandard stream unpacks to; EOFError where it is truncated.

  Args:
    window: bytes that it may have been packed with at most; 0: 128 MB.
  """
  return io.BufferedReader(_Zst(stream, window), _BLOCK)


_UNPACK = {
  '.gz': gzip.open,
  '.bz2': bz2.open,
  '.xz': lzma.open,
  '.zst': unpack_zst,
}


def _zst_errors() -> tuple[type[Exception], ...]:
  """Returns what zstandard raises at damaged data, if it is installed."""
  try:
    import zstandard
  except ImportError:
    return ()
  return (zstandard.ZstdError,)


def _tar(name: str, stream: BinaryIO, how: How) -> Iterator[Part]:
  """Yields the parts of the texts in a tar archive, in its order."""
  has_text = False
  with tarfile.open(fileobj=stream, mode='r|') as archive:
    for member in archive:
      if not member.isfile() or not _is_stream(member.name):
        continue
      if is_junk(member.name):
        how.tell('junk', f'{name}/{member.name}')
      else:
        has_text = True
        inner = archive.extractfile(member)
        yield from _stream(f'{name}/{member.name}', _kind(member.name), inner, how)
    # At a damaged header tarfile stops as at the end, which is two blocks of zeros.
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
      raise tarfile.ReadError('it does not end as an archive does')
  if not has_text:
    raise UserError(f'{name}: holds no .txt or .jsonl file')


def _zip(path: Path, how: How) -> Iterator[Part]:
  """Yields the parts of the texts in a zip archive, in its order."""
  try:
    opened = zipfile.ZipFile(path)
  except NotImplementedError as e:  # of a version that is to come
    raise zipfile.BadZipFile(str(e)) from e
  with opened as archive:
    texts = [m for m in archive.infolist() if _is_stream(m.filename)]
    members = [m for m in texts if not is_junk(m.filename)]
    for member in texts:
      if is_junk(member.filename):
        how.tell('junk', f'{path}/{member.filename}')
    if not members:
      raise UserError(f'{path}: holds no .txt or .jsonl file')
    for member in members:
      try:
        inner = archive.open(member)
      except (RuntimeError, NotImplementedError) as e:  # encrypted; odd compression
        raise UserError(f'{path}: {brief(e)}; unpack it and give the folder') from e
      with inner:
        kind = _kind(member.filename)
        yield from _stream(f'{path}/{member.filename}', kind, inner, how)


def _decode(stream: BinaryIO, name: str, errors: str) -> Iterator[str]:
  """Yields the text of a UTF-8 stream; line ends stay as they are, a BOM goes."""
  decoder = codecs.getincrementaldecoder('utf-8')(errors)
  taken = lines = 0  # bytes and newlines that went into the decoder
  block = b'first'
  while block:
    block = stream.read(_BLOCK)
    waiting = len(decoder.getstate()[0])
    try:
      text = decoder.decode(block, final=not block)
    except UnicodeDecodeError as e:
      line = lines + e.object.count(b'\n', 0, e.start) + 1
      raise _not_utf8(name, line, taken - waiting, e) from e
    if not taken:
      text = text.removeprefix('\ufeff')
    taken += len(block)
    lines += block.count(b'\n')
    yield text


def _not_utf8(name: str, line: int, start: int, e: UnicodeDecodeError) -> UserError:
  """Returns the error for bytes, `start` bytes into a file, that are not UTF-8."""
  return UserError(
    f'{name}: line {line}, byte {start + e.start}: not UTF-8 '
    f'(0x{e.object[e.start]:02x}, {e.reason}); convert the file, or read on with '
    '--config.data.errors=replace'
  )


_OR_LINES = 'give a list of objects, or an object a line'
_MEND = 'mend it, or leave such lines out with --config.data.bad_lines=skip'


def _json_lines(
  name: str, stream: BinaryIO, how: How, mend: str = _MEND
) -> Iterator[Part]:
  """Yields the parts of the texts in a file of one JSON object a line."""
  start, read, skipped, problem = 0, 0, 0, ''
  for number, line in lines(stream, name):
    try:
      text = line.decode('utf-8', how.errors)
    except UnicodeDecodeError as e:
      raise _not_utf8(name, number, start, e) from e
    start += len(line)
    text = text.removeprefix('\ufeff') if number == 1 else text
    if not text.strip():
      continue
    read += 1
    try:
      where = f'{name}: line {number}'
      value = _field(parse_json(text, where, mend), how.field, where, mend)
    except UserError as e:
      if how.skip is None:
        raise
      problem = str(e).removesuffix(f'; {mend}')
      how.skip(problem)
      skipped += 1
      continue
    yield from cut(f'{name}:{number}', [encodable(value)])
  if read and read == skipped:
    raise UserError(f'{name}: every line was left out; the last: {problem}')


def _json_list(name: str, stream: BinaryIO, how: How) -> Iterator[Part]:
  """Yields the parts of the texts in a file that is one JSON list of objects."""
  content = stream.read(_LARGEST + 1)
  if len(content) > _LARGEST:
    raise UserError(
      f'{name}: more than {_LARGEST:,} bytes are too many for one JSON list; write it '
      'as .jsonl, an object a line'
    )
  text = ''.join(_decode(io.BytesIO(content), name, how.errors))
  rows = parse_json(text, name, _OR_LINES)
  problem, skipped = '', 0
  for number, row in enumerate(rows, 1):
    try:
      value = _field(row, how.field, f'{name}: entry {number}', _MEND)
    except UserError as e:
      if how.skip is None:
        raise
      problem, skipped = str(e).removesuffix(f'; {_MEND}'), skipped + 1
      how.skip(problem)
      continue
    yield from cut(f'{name}:{number}', [encodable(value)])
  if rows and skipped == len(rows):
    raise UserError(f'{name}: every entry was left out; the last: {problem}')


def _field(row: Any, field: str, where: str, remedy: str) -> str:
  """Returns the text of a row, '' for null; raises UserError if it has none."""
  problem = ''
  if not isinstance(row, dict):
    problem = f'{type(row).__name__} instead of an object with fields'
  elif field not in row:
    there = listed([*map(repr, row)]) or 'none'
    problem = (
      f'no field {field!r}; the fields are {there}.{nearest(field, row)} Name it with '
      '--config.data.field (tokenize: --field)'
    )
  elif not isinstance(row[field], str | None):
    problem = f'field {field!r} is {type(row[field]).__name__}, not text'
  if problem:
    raise UserError(f'{where}: {problem}; {remedy}')
  return row[field] or ''


def _parquet(path: Path, how: How) -> Iterator[Part]:
  """Yields the parts of the texts in a column of a Parquet file."""
  pyarrow = imported('pyarrow', str(path))
  parquet = imported('pyarrow.parquet', str(path))
  try:
    with parquet.ParquetFile(path) as file:
      check_column(str(path), how.field, file.schema_arrow.names)
      number = 0
      for batch in file.iter_batches(256, columns=[how.field]):
        for text in batch.column(0).to_pylist():
          number += 1
          yield from cut(
            f'{path}:{number}', [text_of_cell(path, number, how.field, text)]
          )
  except (pyarrow.ArrowException, UnicodeDecodeError) as e:
    raise UserError(f'{path}: not a Parquet file, or damaged ({brief(e)})') from e


def check_column(name: str, field: str, columns: list[str]) -> None:
  """Raises a UserError unless a table has the column."""
  if field not in columns:
    raise UserError(
      f'{name}: no column {field!r}; the columns are {listed([*map(repr, columns)])}.'
      f'{nearest(field, columns)} Name it with --config.data.field '
      '(tokenize: --field)'
    )


def text_of_cell(name: str | Path, row: int, field: str, value: Any) -> str:
  """Returns a cell as text, '' for null."""
  if not isinstance(value, str | None):
    raise UserError(
      f'{name}: row {row}: column {field!r} is {type(value).__name__}, not text; name '
      'another with --config.data.field'
    )
  return encodable(value or '')


def imported(module: str, wanted_by: str) -> Any:
  """Returns an optional package; a UserError says how to install it."""
  try:
    return importlib.import_module(module)
  except ImportError as e:
    package = module.partition('.')[0]
    raise UserError(f'{wanted_by} needs {package}: `pip install {package}`') from e
