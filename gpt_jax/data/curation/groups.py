"""Values brought together by their keys, on disk: sorted runs, and their merge.

The sort of external memory (Knuth, "The Art of Computer Programming", volume 3, section
5.4): entries are sorted in memory as many as fit, written as a run, and the runs are
merged. A run has one packed segment for each part, and at its end where they begin.
"""

import contextlib
import heapq
import itertools
import json
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO

from gpt_jax.data.curation.shards import joined, opened, packed, written
from gpt_jax.data.formats import unpack_zst

Entry = tuple[bytes, bytes]  # key and value
_FITS = 1 << 26  # bytes of entries that a process sorts at once
_OBJECTS = 180  # bytes that Python needs for an entry besides its key and value
_MERGED = 64  # runs that are merged at once: each takes a file and about 1 MB
_SIZE, _SIZES = struct.Struct('<I'), struct.Struct('<II')
_PLACE = struct.Struct('<Q')


def part_of(key: bytes, parts: int) -> int:
  """Returns the part that a key belongs to."""
  return zlib.crc32(key) % parts


def spill(
  emit: Callable[[Any], Iterable[Entry]],
  folder: str,
  parts: int,
  numbered: tuple[int, Any],
) -> int:
  """Writes what an item says as sorted runs, and returns how many.

  Args:
    emit: yields the keys and values of an item.
    folder: of the runs, which are called ITEM-RUN.
    numbered: the item with its number.
  """
  number, item = numbered
  runs, size, entries = 0, 0, []
  for key, value in emit(item):
    entries.append((part_of(key, parts), key, value))
    size += len(key) + len(value) + _OBJECTS
    if size >= _FITS:
      _write_run(run_path(folder, number, runs), entries, parts)
      runs, size, entries = runs + 1, 0, []
  if entries:
    _write_run(run_path(folder, number, runs), entries, parts)
    runs += 1
  return runs


def run_path(folder: str, item: int, run: int) -> str:
  """Returns the path of a run."""
  return joined(folder, f'{item:05d}-{run:04d}.run')


def _write_run(path: str, entries: list[tuple[int, bytes, bytes]], parts: int) -> None:
  """Writes the entries (part, key, value) of a run, sorted, and empties the list."""
  entries.sort()
  places = [0]
  with written(path) as stream:
    by_part = {
      part: list(each) for part, each in itertools.groupby(entries, itemgetter(0))
    }
    entries.clear()
    for part in range(parts):
      if part in by_part:
        _write_entries(stream, (each[1:] for each in by_part.pop(part)))
      places.append(stream.tell())
    for place in places:
      stream.write(_PLACE.pack(place))


def _write_entries(stream: BinaryIO, entries: Iterable[Entry]) -> None:
  """Writes entries as one packed segment."""
  with packed(stream, fast=True) as inner:
    for key, value in entries:
      inner.write(_SIZES.pack(len(key), len(value)) + key + value)


def _read_entries(stream: BinaryIO) -> Iterator[Entry]:
  """Yields the entries of a packed segment, with which the stream ends."""
  with unpack_zst(stream) as inner:
    while sizes := inner.read(_SIZES.size):
      key, value = _SIZES.unpack(sizes)
      yield inner.read(key), inner.read(value)


class _Segment:
  """A part of a file, as a stream."""

  def __init__(self, stream: BinaryIO, begin: int, end: int):
    stream.seek(begin)
    self._stream, self._left = stream, end - begin

  def read(self, size: int) -> bytes:
    """Returns the next bytes, at most `size`."""
    content = self._stream.read(min(size, self._left))
    self._left -= len(content)
    return content


def _segment(path: str, part: int, parts: int) -> Iterator[Entry]:
  """Yields the entries of a part in a run."""
  with opened(path) as stream:
    stream.seek(-_PLACE.size * (parts + 1 - part), 2)
    begin, end = (_PLACE.unpack(stream.read(_PLACE.size))[0] for _ in range(2))
    if begin < end:
      yield from _read_entries(_Segment(stream, begin, end))


def _kept(stream: BinaryIO) -> Iterator[Entry]:
  """Yields the entries of a temporary file from its beginning."""
  stream.seek(0)
  yield from _read_entries(stream)


def _merged(
  runs: Sequence[Iterator[Entry]], stack: contextlib.ExitStack
) -> Iterator[Entry]:
  """Returns the entries of sorted runs in order, merged in several rounds if many.

  Args:
    stack: closes the temporary files.
  """
  runs = list(runs)
  while len(runs) > _MERGED:
    kept = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    _write_entries(kept, heapq.merge(*runs[:_MERGED]))
    runs = [*runs[_MERGED:], _kept(kept)]
  return heapq.merge(*runs)


def reduce_part(
  reduce: Callable[[bytes, Iterator[bytes]], Iterable[bytes]],
  folder: str,
  listing: str,
  output: str,
  parts: int,
  part: int,
) -> str:
  """Writes the records that a part's keys give, and returns the path.

  Args:
    reduce: called with each key, in order, and an iterator of its values in order.
    folder: where `spill` wrote the runs.
    listing: JSON file with the number of runs of each item.
    output: folder of the records.
  """
  with opened(listing) as stream:
    counts = json.load(stream)
  runs = [
    _segment(run_path(folder, item, run), part, parts)
    for item, count in enumerate(counts)
    for run in range(count)
  ]
  path = joined(output, f'{part:05d}.records')
  with contextlib.ExitStack() as stack:
    merged = _merged(runs, stack)
    records = (
      record
      for key, entries in itertools.groupby(merged, itemgetter(0))
      for record in reduce(key, map(itemgetter(1), entries))
    )
    write_records(path, records)
  return path


def write_records(path: str, records: Iterable[bytes]) -> None:
  """Writes byte strings to a file, whole or not at all."""
  with written(path) as stream, packed(stream) as inner:
    for record in records:
      inner.write(_SIZE.pack(len(record)) + record)


def read_records(path: str | Path) -> Iterator[bytes]:
  """Yields the byte strings of a file that `Engine.group` wrote, in their order."""
  with opened(path) as stream, unpack_zst(stream) as inner:
    while size := inner.read(_SIZE.size):
      yield inner.read(_SIZE.unpack(size)[0])
