"""Which text is trained on and which is held out."""

import hashlib
import os
from array import array
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from gpt_jax.config import Data, UserError
from gpt_jax.data import duplicates, sources
from gpt_jax.data.notices import Notices
from gpt_jax.data.pieces import Part


class Piece(NamedTuple):
  """A piece of text, and the token file, 'train' or 'valid', that it goes to."""

  file: str
  text: str
  first: bool  # of its document in this file
  name: str = ''  # of its document: a path, with a line where it has several


class Text(NamedTuple):
  """What a first reading found.

  Attributes:
    lengths: characters of each document of data.source.
    dropped: whether it is left out, as another has its text; one for each of them.
    held_out: documents of data.valid.
    bytes: of all text that is kept, in UTF-8.
    digests: of the sources of each token file.
    way: how text is held out: 'documents', 'position' or 'valid'.
    lines: in words, what else is to be said of the text.
  """

  lengths: array
  dropped: np.ndarray
  held_out: int
  bytes: int
  digests: dict[str, str]
  way: str
  lines: list[str]


class _Counted(NamedTuple):
  """What a source holds: characters, bytes and marks of its documents; its digest."""

  lengths: array
  sizes: np.ndarray
  marks: tuple[np.ndarray, np.ndarray]
  digest: str


def _read(
  data: Data,
  field: str,
  skip: Callable[[str], None] = lambda line: None,
  tell: Callable[[str, str], None] = lambda kind, name: None,
) -> Iterator[Part]:
  """Yields the parts of data.source or data.valid.

  What it skips and tells is said by `look`, and by nobody who reads again.
  """
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
    separator=data.separator,
    tell=tell,
  )


def look(
  data: Data, skip: Callable[[str], None], read: Callable[..., Iterator[Part]] = _read
) -> Text:
  """Returns what the sources of a config hold.

  Memory: 48 bytes for each document.

  Args:
    skip: called with each line that data.bad_lines=skip leaves out.
    read: yields the parts of a source; takes data, 'source' or 'valid', and `skip` and
      `tell` of `sources.parts`.

  Raises:
    UserError: see `sources.parts`; or a source holds no text.
  """
  notices = Notices()
  source = _count(data, 'source', read(data, 'source', skip, notices.tell), notices)
  valid = None
  if data.valid:
    valid = _count(data, 'valid', read(data, 'valid', skip, notices.tell), notices)
  _, letters = source.marks
  copy = duplicates.copies(letters)
  if valid:
    copy |= np.isin(letters, valid.marks[1])
  dropped = copy if data.duplicates == 'drop' else np.zeros_like(copy)
  way, digest = 'valid' if valid else data.split, source.digest
  if way == 'auto':
    way = 'documents' if np.sum(~dropped) >= 10 else 'position'
  if dropped.any():  # other text than that of the same source with its copies
    which = np.packbits(dropped).tobytes()
    digest = hashlib.sha256(digest.encode() + which).hexdigest()
  return Text(
    source.lengths,
    dropped,
    len(valid.lengths) if valid else 0,
    int(source.sizes[~dropped].sum() + (valid.sizes.sum() if valid else 0)),
    {'train': digest, 'valid': valid.digest if valid else digest},
    way,
    notices.lines() + _said_of_copies(data, source, valid, copy, way),
  )


def _said_of_copies(
  data: Data, source: _Counted, valid: _Counted | None, copy: np.ndarray, way: str
) -> list[str]:
  """Returns a line on documents that are equal, if there are any."""
  count = int(copy.sum())
  if not count:
    return []
  whole = duplicates.copies(source.marks[0])
  if valid:
    whole |= np.isin(source.marks[0], valid.marks[0])
  said = f'{int((whole & copy).sum()):,} letter for letter'
  if data.duplicates == 'drop':
    of = 'a held-out or an earlier one' if valid else 'an earlier one'
    return [f'left out {count:,} document(s) equal or nearly equal to {of} ({said})']
  line = (
    f'{count:,} of {len(copy):,} documents are equal or nearly equal to '
    f'{"a held-out or an earlier one" if valid else "an earlier one"} ({said})'
  )
  train, held = source.marks, valid.marks if valid else None
  if way == 'documents':
    share = _share(data)
    apart = np.array([_is_held_out(i, share) for i in range(len(copy))])
    train, held = ([each[part] for each in source.marks] for part in (~apart, apart))
  if held:
    equal, both = (
      np.isin(own, other).sum() for own, other in zip(held, train, strict=True)
    )
    line += f'; {both:,} of {len(held[0]):,} held-out documents are trained on too'
    line += f' ({equal:,} letter for letter)'
  return [f'{line}; --config.data.duplicates=drop leaves copies out']


def _count(data: Data, field: str, parts: Iterator[Part], notices: Notices) -> _Counted:
  """Returns what one source holds."""
  lengths, sizes, digest = array('Q'), array('Q'), hashlib.sha256()
  marks = duplicates.Marks()
  for part in parts:
    if part.first:
      lengths.append(0)
      sizes.append(0)
      digest.update(f'\0{os.path.basename(part.name)}\0'.encode())
    notices.watch(part)
    marks.add(part.text, part.first)
    lengths[-1] += len(part.text)
    text = part.text.encode()
    sizes[-1] += len(text)
    digest.update(text)
  if not sum(sizes):
    raise UserError(
      f'data.{field}={getattr(data, field)} holds no text; give a source with some'
    )
  counted = np.array(sizes, np.int64)
  return _Counted(lengths, counted, marks.arrays(), digest.hexdigest())


def _share(data: Data) -> Fraction:
  """Returns the share that is held out: 0.1 is meant, not the float nearest to it."""
  return Fraction(str(data.holdout))


def _is_held_out(number: int, share: Fraction) -> bool:
  """Returns whether the document of a number from 0 is held out, one in 1 / share."""
  a, b = share.numerator, share.denominator
  return (number + 1) * a // b > number * a // b


def divide(
  data: Data, text: Text, read: Callable[..., Iterator[Part]] = _read
) -> Iterator[Piece]:
  """Yields all text in the order of its sources, each piece with its token file.

  Args:
    read: as in `look`.
  """
  share = None if text.way == 'valid' else _share(data)
  i, kept, at = -1, -1, 0  # the document, its number among those kept, place in it
  for part in read(data, 'source'):
    if part.first:
      i, at = i + 1, 0
    if i == len(text.lengths):
      raise UserError(f'data.source={data.source} changed while it was read; try again')
    if text.dropped[i]:
      continue
    kept += part.first
    if text.way == 'valid':
      yield Piece('train', part.text, part.first, part.name)
    elif text.way == 'documents':
      file = 'valid' if _is_held_out(kept, share) else 'train'
      yield Piece(file, part.text, part.first, part.name)
    else:
      limit = int(text.lengths[i] * (1 - share))
      here = min(max(limit - at, 0), len(part.text))
      if here:
        yield Piece('train', part.text[:here], part.first, part.name)
      if here < len(part.text):
        yield Piece('valid', part.text[here:], at + here == limit, part.name)
    at += len(part.text)
  for part in read(data, 'valid') if text.way == 'valid' else ():
    yield Piece('valid', part.text, part.first, part.name)


def describe(data: Data, text: Text) -> str:
  """Returns a line that says what was read and what is held out."""
  share = f'{100 * data.holdout:g} %'
  what = {
    'valid': f'{data.valid} ({text.held_out:,} documents)',
    'documents': f'{share} of the documents, evenly spread',
    'position': f'the last {share} of each document',
  }[text.way]
  number = int((~text.dropped).sum())
  count = f'{number:,} document{"s" * (number > 1)}'
  return f'{data.source}: {count}, {text.bytes / 1e6:.2f} MB; held out: {what}'
