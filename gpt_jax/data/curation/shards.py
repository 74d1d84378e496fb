"""A corpus on disk: a folder of shards, a document a line, and how files are reached.

A shard is JSON lines packed by Zstandard, which `launch.py prepare` reads as any other.
A path may be a URL such as s3://bucket/name where fsspec is installed; see `opened`.
"""

import contextlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from gpt_jax.config import UserError
from gpt_jax.data.formats import imported, unpack_zst
from gpt_jax.files import brief, field, lines, parse_json_line, sync

SUFFIX = '.jsonl.zst'
_LEVEL = 3  # of Zstandard; it is part of what makes the same documents the same bytes
_LONGEST = 2**28  # bytes of a line
_BLOCK = 1 << 16  # bytes handed to the compressor at once
_URL = re.compile(r'[A-Za-z][A-Za-z0-9+.-]+://')
_REMEDY = 'remove the folder of this stage and its marks, and run it again'


class Document(NamedTuple):
  """A text that stands for itself, and where it comes from.

  Attributes:
    id: PATH#NUMBER of the file that it was read from; the same through all stages.
    source: name of the source in the config.
    text: Unicode that UTF-8 can write.
    meta: what is known besides (url, language, scores ..), as values of JSON.
  """

  id: str
  source: str
  text: str
  meta: dict[str, Any]


def read_shard(path: str | Path) -> Iterator[Document]:
  """Yields the documents of a shard in their order.

  Raises:
    UserError: it can't be read, is damaged or truncated.
  """
  zstandard = imported('zstandard', str(path))
  number = 0
  try:
    with opened(path) as inner, unpack_zst(inner) as stream:
      for number, line in lines(stream, path, most=_LONGEST):
        row = parse_json_line(line, f'{path}: line {number}', _REMEDY)
        where = f'{path}: line {number}'
        yield Document(
          field(row, 'id', str, where, _REMEDY),
          field(row, 'source', str, where, _REMEDY),
          field(row, 'text', str, where, _REMEDY),
          field(row, 'meta', dict, where, _REMEDY),
        )
  except (zstandard.ZstdError, EOFError) as error:
    raise UserError(
      f'{path} is damaged after line {number}: {brief(error)}; {_REMEDY}'
    ) from error


def write_shard(path: str | Path, documents: Iterable[Document]) -> int:
  """Writes a shard whole or not at all; the same documents give the same bytes.

  Returns:
    How many documents it has.
  """
  count = 0
  with written(path) as stream, packed(stream) as lines_of:
    for count, document in enumerate(documents, 1):  # noqa: B007
      row = json.dumps(
        document._asdict(), ensure_ascii=False, allow_nan=False, separators=(',', ':')
      )
      lines_of.write(row.encode() + b'\n')
  return count


def list_shards(folder: str | Path) -> list[str]:
  """Returns the paths of a folder's shards, in their order.

  Raises:
    UserError: it has none.
  """
  names = sorted(name for name in names_in(folder) if name.endswith(SUFFIX))
  if not names:
    raise UserError(
      f'{folder} has no shard (*{SUFFIX}); give the folder that a stage of `curate` '
      'wrote'
    )
  return [joined(folder, name) for name in names]


def is_url(path: str | Path) -> bool:
  """Returns whether a path is a URL, which fsspec opens."""
  return bool(_URL.match(str(path)))


def joined(folder: str | Path, *names: str) -> str:
  """Returns the path of a name in a folder."""
  return '/'.join([str(folder).rstrip('/'), *names])


def names_in(folder: str | Path) -> list[str]:
  """Returns the names in a folder, sorted; none where there is no such folder."""
  if is_url(folder):
    system, path = _system(folder)
    try:
      listing = system.ls(path, detail=False, refresh=True)
    except FileNotFoundError:
      return []
    return sorted(name.rstrip('/').rpartition('/')[2] for name in listing)
  try:
    return sorted(name for name in os.listdir(folder) if not name.startswith('.'))
  except FileNotFoundError:
    return []


def find(url: str) -> list[tuple[str, int]]:
  """Returns the files that a URL, of a file, folder or glob, stands for, with sizes."""
  system, path = _system(url)
  found = (
    system.glob(path, detail=True)
    if any(mark in path for mark in '*?[')
    else system.find(path, detail=True)
  )
  return [
    (system.unstrip_protocol(name), about['size'])
    for name, about in found.items()
    if about['type'] == 'file'
  ]


def opened(path: str | Path) -> BinaryIO:
  """Returns a file or an object of a store, opened to read bytes; it can seek.

  Raises:
    UserError: a URL without fsspec, or that can't be read.
    OSError: a file can't be read.
  """
  if not is_url(path):
    return open(path, 'rb')
  system, inside = _system(path)
  try:
    return system.open(inside, 'rb')
  except OSError as error:
    raise UserError(f'{path} can not be read: {brief(error)}; check the URL') from error


def remove(folder: str | Path) -> None:
  """Removes a folder with all in it, if it is there."""
  if not is_url(folder):
    shutil.rmtree(folder, ignore_errors=True)
    return
  system, inside = _system(folder)
  with contextlib.suppress(FileNotFoundError):
    system.rm(inside, recursive=True)


@contextlib.contextmanager
def written(path: str | Path) -> Iterator[BinaryIO]:
  """Yields a stream whose bytes become the file, whole, unless the body raises."""
  if is_url(path):
    # A store's own stream would keep what was written before an error as an object.
    with tempfile.TemporaryDirectory() as folder:
      local = Path(folder) / 'whole'
      with open(local, 'wb') as stream:
        yield stream
      system, inside = _system(path)
      system.put_file(str(local), inside)
    return
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  try:
    with open(temporary, 'wb') as stream:
      yield stream
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)
  finally:
    temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def packed(stream: BinaryIO, *, fast: bool = False) -> Iterator[BinaryIO]:
  """Yields a stream that Zstandard packs into another, as one frame.

  Args:
    fast: pack less, with a window of 128 KiB, for files that many are read of at once.
  """
  zstandard = imported('zstandard', 'a shard')
  parameters = zstandard.ZstdCompressionParameters.from_level
  settings = parameters(1, window_log=17) if fast else parameters(_LEVEL)
  compressor = zstandard.ZstdCompressor(compression_params=settings)
  writer = compressor.stream_writer(stream, closefd=False)
  with writer, io.BufferedWriter(writer, _BLOCK) as buffered:
    yield buffered


def _system(path: str | Path) -> tuple[Any, str]:
  """Returns fsspec's file system of a URL, and the path in it."""
  fsspec = imported('fsspec', str(path))
  try:
    return fsspec.core.url_to_fs(str(path))
  except (ImportError, ValueError) as error:
    raise UserError(f'{path}: {brief(error)}') from error
