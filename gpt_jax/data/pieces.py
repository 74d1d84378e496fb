"""Documents that arrive in pieces of any size: cut in parts, divided at separators."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import NamedTuple

PART = 1 << 18  # characters of a part, about: larger ones leave more holes in memory


class Part(NamedTuple):
  """A piece of a document; `first` where a document begins."""

  name: str
  text: str
  first: bool


def cut(name: str, texts: Iterable[str]) -> Iterator[Part]:
  """Yields the parts of one document that arrives in pieces of any size."""
  first, waiting, size = True, [], 0
  for piece in texts:
    waiting.append(piece)
    size += len(piece)
    if size >= 2 * PART:
      text = ''.join(waiting)
      while len(text) >= 2 * PART:
        end = _cut_before(text, PART)
        yield Part(name, text[:end], first)
        first, text = False, text[end:]
      waiting, size = [text], len(text)
  if size:
    yield Part(name, ''.join(waiting), first)


def _cut_before(text: str, end: int) -> int:
  """Returns the last place up to `end` where a space divides two words, or `end`."""
  at = end
  while (at := text.rfind(' ', end // 2, at)) > 0:
    if text[at - 1].isalnum() and text[at + 1].isalnum():
      return at
  return end


def divided(
  name: str, texts: Iterable[str], separator: str, missed: Callable[[], None]
) -> Iterator[Part]:
  """Yields the parts of the documents between separators, named NAME:1, NAME:2, ...

  A separator divides wherever it stands. One at the begin of a line takes the line end
  behind it along; all other line ends stay. Documents of blanks alone are left out.

  Args:
    texts: the pieces of a text; a separator may lie across two of them.
    missed: is called at the end of a text that has no separator.
  """
  number = 0
  pieces = _numbered(texts, separator)
  for number, own in itertools.groupby(pieces, itemgetter(0)):
    start, left = '', map(itemgetter(1), own)
    for piece in left:
      start += piece
      if start.strip():
        break
    else:
      continue
    yield from cut(f'{name}:{number + 1}', itertools.chain([start], left))
  if not number:
    missed()


def _numbered(texts: Iterable[str], separator: str) -> Iterator[tuple[int, str]]:
  """Yields pieces with the number of separators before them."""
  number, text, begins_line = 0, '', True
  for piece in itertools.chain(texts, [None]):
    text, last, done = text + (piece or ''), piece is None, 0
    while (at := text.find(separator, done)) >= 0:
      end = at + len(separator)
      if len(text) < end + 2 and not last:
        break  # whether a line end follows is not known yet
      yield number, text[done:at]
      begins_line = text[at - 1] == '\n' if at > done else begins_line
      number, done = number + 1, end
      if begins_line:
        ends = [mark for mark in ('\r\n', '\n') if text.startswith(mark, end)]
        done += len(ends[0]) if ends else 0
        begins_line = bool(ends)
    safe = len(text) if last else at if at >= 0 else len(text) - len(separator) + 1
    if safe > done:
      yield number, text[done:safe]
      begins_line, done = text[safe - 1] == '\n', safe
    text = text[done:]
