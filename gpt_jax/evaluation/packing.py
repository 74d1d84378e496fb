"""Many texts in a few rows of tokens, without padding and with nothing read twice.

Answers to one question share its words, and questions about one passage the passage.
Texts that begin alike form a tree, with common beginnings written once; small trees
share a row without seeing each other (`model.cache.Tree` has the mask). So a program of
one shape serves texts of all lengths.
"""

import bisect
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np


class Text(NamedTuple):
  """A text whose end is to be scored.

  Attributes:
    ids: all tokens, int32.
    known: how many of them are context, 1 or more.
  """

  ids: np.ndarray
  known: int

  @property
  def read(self) -> np.ndarray:
    """What a model reads of it: all but the last token."""
    return self.ids[:-1]


class Row(NamedTuple):
  """Trees of tokens next to each other, and the predictions to score.

  Attributes:
    ids: [W] tokens.
    pos: [W] how many tokens of its text precede each.
    end: [W] the first place after it that does not see it.
    asked: (number of a text, the places [n] where its unknown tokens are predicted).
  """

  ids: np.ndarray
  pos: np.ndarray
  end: np.ndarray
  asked: list[tuple[int, np.ndarray]]

  @property
  def predictions(self) -> int:
    """How many tokens are predicted."""
    return sum(len(places) for _, places in self.asked)


def round_up(n: int, least: int = 16) -> int:
  """Returns the first of 4, 5, 6, 7 times a power of two that is n or more."""
  n = max(n, least)
  step = 1 << max(0, (n - 1).bit_length() - 3)
  return -(-n // step) * step


def shared(texts: Sequence[Text]) -> int:
  """Returns how many tokens all texts begin with, each with context left after them."""
  first = min((text.ids for text in texts), key=lambda ids: ids.tolist())
  last = max((text.ids for text in texts), key=lambda ids: ids.tolist())
  return min(_alike(first, last), *(text.known - 1 for text in texts))


def packed(texts: Sequence[Text], W: int, skip: int = 0) -> list[Row]:
  """Returns rows that hold all texts, the widest first.

  Args:
    W: width of a row; wider for a wider tree, narrower for a row with few tokens.
    skip: tokens at the beginning of all texts, left out; positions count them.
  """
  trees = sorted(_trees(texts, W, skip), key=lambda tree: -len(tree.ids))
  rows: list[list[Row]] = []
  free: list[tuple[int, int]] = []  # places left in a row and its number, ascending
  for tree in trees:
    size = len(tree.ids)
    at = bisect.bisect_left(free, (size, -1))
    if at < len(free):
      left, row = free.pop(at)
      rows[row].append(tree)
    else:
      left, row = max(W, round_up(size)), len(rows)
      rows.append([tree])
    bisect.insort(free, (left - size, row))
  return [_row(members, W) for members in rows]


def _trees(texts: Sequence[Text], W: int, skip: int) -> Iterator[Row]:
  """Yields trees of texts of which each shares half of its context with the next.

  One with several of them is no larger than W, or a context and W if they share it.
  """
  members: list[int] = []
  size = 0
  for i in sorted(range(len(texts)), key=lambda i: texts[i].ids.tolist()):
    new = own = len(texts[i].read) - skip
    if members:
      alike = _alike(texts[members[-1]].read, texts[i].read)
      new = len(texts[i].read) - alike
      # A context may be long; that many texts have it must not make a tree large.
      room = W + (texts[i].known - skip if alike >= texts[i].known else 0)
      if size + new > room or 2 * (alike - skip) < texts[i].known - skip:
        yield _tree(texts, members, skip)
        members, size, new = [], 0, own
    members.append(i)
    size += new
  if members:
    yield _tree(texts, members, skip)


def _tree(texts: Sequence[Text], members: list[int], skip: int) -> Row:
  """Returns the tree of some texts, which are in lexicographic order."""
  ids, pos, end, asked = [], [], [], []
  path: list[int] = []  # the places of the text before
  before = np.zeros(0, np.int32)
  for i in members:
    read = texts[i].read[skip:]
    alike = _alike(before, read)
    for place in path[alike:]:
      end[place] = len(ids)
    path = [*path[:alike], *range(len(ids), len(ids) + len(read) - alike)]
    ids += read[alike:].tolist()
    pos += range(skip + alike, skip + len(read))
    end += [0] * (len(read) - alike)
    asked.append((i, np.array(path[texts[i].known - 1 - skip :], np.int32)))
    before = read
  for place in path:
    end[place] = len(ids)
  return Row(*(np.array(x, np.int32) for x in (ids, pos, end)), asked)


def _row(trees: list[Row], W: int) -> Row:
  """Returns trees next to each other, with padding that sees only itself."""
  size = sum(len(tree.ids) for tree in trees)
  width = W if size <= W else round_up(size)
  if size <= W // 2:
    width = max(16, 1 << (size - 1).bit_length())
  ids, pos = np.zeros(width, np.int32), np.zeros(width, np.int32)
  end, asked, at = np.arange(1, width + 1, dtype=np.int32), [], 0
  for tree in trees:
    here = slice(at, at + len(tree.ids))
    ids[here], pos[here], end[here] = tree.ids, tree.pos, tree.end + at
    asked += [(i, places + at) for i, places in tree.asked]
    at = here.stop
  return Row(ids, pos, end, asked)


def _alike(a: np.ndarray, b: np.ndarray) -> int:
  """Returns how many first tokens two texts share."""
  n = min(len(a), len(b))
  differ = np.flatnonzero(a[:n] != b[:n])
  return int(differ[0]) if len(differ) else n
