"""Which text is trained on and which is held out."""

import hashlib
import os
from array import array
from collections.abc import Callable, Collection, Iterator
from fractions import Fraction
from typing import NamedTuple

from gpt_jax.config import Data, UserError
from gpt_jax.data import sources
from gpt_jax.data.formats import Part


class Piece(NamedTuple):
  """A piece of text, and the token file, 'train' or 'valid', that it goes to."""

  file: str
  text: str
  first: bool  # of its document in this file
  name: str = ''  # of its document: a path, with a line where it has several


class Text(NamedTuple):
  """What a first reading found."""

  lengths: array  # characters of each document of data.source
  held_out: int  # documents of data.valid
  bytes: int  # of all text, in UTF-8
  digests: dict[str, str]  # of the sources of each token file
  way: str  # how text is held out: 'documents', 'position' or 'valid'


def look(data: Data, skip: Callable[[str], None]) -> Text:
  """Returns what the sources of a config hold.

  Args:
    skip: called with each line that data.bad_lines=skip leaves out.

  Raises:
    UserError: see `sources.parts`; or a source holds no text.
  """
  lengths, size, digest = _count(data, 'source', skip)
  if not data.valid:
    way = data.split
    if way == 'auto':
      way = 'documents' if len(lengths) >= 10 else 'position'
    return Text(lengths, 0, size, {'train': digest, 'valid': digest}, way)
  held_out, more, other = _count(data, 'valid', skip)
  digests = {'train': digest, 'valid': other}
  return Text(lengths, len(held_out), size + more, digests, 'valid')


def _count(
  data: Data, field: str, skip: Callable[[str], None]
) -> tuple[array, int, str]:
  """Returns each document's characters, all bytes and the digest of one source."""
  lengths, size, digest = array('Q'), 0, hashlib.sha256()
  for part in _read(data, field, skip):
    if part.first:
      lengths.append(0)
      digest.update(f'\0{os.path.basename(part.name)}\0'.encode())
    lengths[-1] += len(part.text)
    text = part.text.encode()
    size += len(text)
    digest.update(text)
  if not size:
    raise UserError(
      f'data.{field}={getattr(data, field)} holds no text; give a source with some'
    )
  return lengths, size, digest.hexdigest()


def _read(data: Data, field: str, skip: Callable[[str], None]) -> Iterator[Part]:
  """Yields the parts of data.source or data.valid."""
  checksums = data.sha256
  if field == 'valid':  # the checksums of data.source come first
    used = sum('://' in entry for entry in sources.split_list(data.source))
    checksums = ','.join(checksums.split(',')[used:])
  return sources.parts(
    getattr(data, field),
    sha256=checksums,
    errors=data.errors,
    field=data.field,
    skip=skip if data.bad_lines == 'skip' else None,
  )


def divide(data: Data, text: Text) -> Iterator[Piece]:
  """Yields all text in the order of its sources, each piece with its token file."""

  def skip(_: str) -> None:
    """Does nothing: `look` counted these lines."""

  if text.way == 'valid':
    for file, field in ('train', 'source'), ('valid', 'valid'):
      for part in _read(data, field, skip):
        yield Piece(file, part.text, part.first, part.name)
    return
  share = Fraction(str(data.holdout))  # 0.1 is meant, not the float nearest to it
  i, at = -1, 0
  for part in _read(data, 'source', skip):
    if part.first:
      i, at = i + 1, 0
    if i == len(text.lengths):
      raise UserError(f'data.source={data.source} changed while it was read; try again')
    if text.way == 'documents':
      held_out = int((i + 1) * share) > int(i * share)
      file = 'valid' if held_out else 'train'
      yield Piece(file, part.text, part.first, part.name)
    else:
      limit = int(text.lengths[i] * (1 - share))
      here = min(max(limit - at, 0), len(part.text))
      if here:
        yield Piece('train', part.text[:here], part.first, part.name)
      if here < len(part.text):
        yield Piece('valid', part.text[here:], at + here == limit, part.name)
    at += len(part.text)


def names(data: Data, numbers: Collection[int]) -> dict[int, str]:
  """Returns the names of documents that are trained on, by their numbers from 0.

  All text before them is read again.
  """
  found: dict[int, str] = {}
  number = -1
  for piece in divide(data, look(data, lambda _: None)):
    number += piece.file == 'train' and piece.first
    if piece.file == 'train' and number in numbers:
      found[number] = piece.name
    if len(found) == len(set(numbers)):
      break
  return found


def describe(data: Data, text: Text) -> str:
  """Returns a line that says what was read and what is held out."""
  share = f'{100 * data.holdout:g} %'
  what = {
    'valid': f'{data.valid} ({text.held_out:,} documents)',
    'documents': f'{share} of the documents, evenly spread',
    'position': f'the last {share} of each document',
  }[text.way]
  count = f'{len(text.lengths):,} document{"s" * (len(text.lengths) > 1)}'
  return f'{data.source}: {count}, {text.bytes / 1e6:.2f} MB; held out: {what}'
