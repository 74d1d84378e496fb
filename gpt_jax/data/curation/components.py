"""Documents that are copies of each other: which is kept, and shards without the rest.

What finds copies says so in pairs. Here pairs become connected components, of each of
which the first document is kept. A document is meant by its *order*, a number of 64
bits (rank of its source, shard, row) by which the first comes first.
"""

import collections
import functools
import io
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.config import UserError
from gpt_jax.data.curation.engine import Engine
from gpt_jax.data.curation.shards import (
  Document,
  joined,
  opened,
  read_shard,
  write_shard,
  written,
)
from gpt_jax.data.curation.stages import EXAMPLES, SHOWN, Tally, total

PAIR = np.dtype([('first', '<u8'), ('second', '<u8')])
ACROSS = 'all', 'priority', 'none'
_SHARDS, _ROWS = 24, 32  # bits of an order below the rank
_NONE = 2**64 - 1
_BATCH = 1 << 20  # characters of the documents that are looked at together


class Scope(NamedTuple):
  """Which sources are compared, and whose documents are kept.

  Attributes:
    priority: sources whose documents are kept before all others', the first first.
    across: 'all': documents of any two sources are compared; 'priority': of two only
      if one of them has priority (GPT-3 took WebText out of Common Crawl, Brown et al.
      2020, appendix A); 'none': only documents of one source.
  """

  priority: tuple[str, ...] = ()
  across: str = 'all'

  def wrong(self) -> list[str]:
    """Returns what is wrong with the values, each in a sentence."""
    wrong = []
    if self.across not in ACROSS:
      wrong.append(f'across={self.across!r} must be one of {", ".join(ACROSS)}')
    if len({*self.priority}) < len(self.priority) or len(self.priority) > 254:
      wrong.append(f'priority={self.priority} must be at most 254 sources, each once')
    if self.across == 'priority' and not self.priority:
      wrong.append("across='priority' needs priority: the sources that are kept first")
    return wrong

  def order(self, source: str, shard: int, row: int) -> int:
    """Returns a document's order."""
    ranks = self.priority
    rank = ranks.index(source) if source in ranks else len(ranks)
    return rank << (_SHARDS + _ROWS) | shard << _ROWS | row

  def compares(
    self, first: np.ndarray, second: np.ndarray, sources: tuple[np.ndarray, np.ndarray]
  ) -> np.ndarray:
    """Returns which pairs are compared, booleans [pairs].

    Args:
      first: orders, uint64 [pairs].
      second: orders, uint64 [pairs].
      sources: a number for the source of each, [pairs] twice.
    """
    within = sources[0] == sources[1]
    if self.across == 'none':
      return within
    if self.across == 'all':
      return np.ones(len(first), bool)
    ranks = np.minimum(first, second) >> np.uint64(_SHARDS + _ROWS)
    return within | (ranks < len(self.priority))


def shard_of(orders: np.ndarray) -> np.ndarray:
  """Returns the number of each document's shard."""
  return (orders >> np.uint64(_ROWS) & np.uint64(2**_SHARDS - 1)).astype(np.int64)


def row_of(orders: np.ndarray) -> np.ndarray:
  """Returns the row of each document in its shard."""
  return (orders & np.uint64(2**_ROWS - 1)).astype(np.int64)


def distinct(pairs: np.ndarray) -> np.ndarray:
  """Returns each pair (`PAIR`) once, in ascending order."""
  pairs = pairs[np.lexsort([pairs['second'], pairs['first']])]
  another = np.ones(len(pairs), bool)
  another[1:] = pairs[1:] != pairs[:-1]
  return pairs[another]


def batches(path: str) -> Iterator[tuple[int, list[Document]]]:
  """Yields the documents of a shard, some at a time, with the row of the first."""
  row, some, size = 0, [], 0
  for document in read_shard(path):
    some.append(document)
    size += len(document.text)
    if size >= _BATCH:
      yield row, some
      row, some, size = row + len(some), [], 0
  if some:
    yield row, some


class Kept:
  """The documents of which others are copies: a forest over all documents.

  It is a file of 8 bytes a document that the system maps into memory, so that it may be
  larger than that (union-find; Tarjan 1975).
  """

  def __init__(self, counts: Sequence[int], file: io.IOBase):
    """Takes how many documents each shard has, and a temporary file."""
    self._begins = np.append(0, np.cumsum(counts)).tolist()
    total = max(1, self._begins[-1])
    file.truncate(8 * total)
    self._parents = np.memmap(file, '<u8', 'r+', shape=(total,))
    for begin in range(0, total, _BATCH):
      self._parents[begin : begin + _BATCH] = _NONE

  def _place(self, order: int) -> int:
    shard = order >> _ROWS & (2**_SHARDS - 1)
    return self._begins[shard] + (order & (2**_ROWS - 1))

  def root(self, order: int) -> int:
    """Returns the first document of a component, by the order of one of it."""
    parents, path = self._parents, []
    while (parent := int(parents[self._place(order)])) != _NONE:
      path.append(order)
      order = parent
    for each in path[:-1]:
      parents[self._place(each)] = order
    return order

  def join(self, pairs: np.ndarray) -> None:
    """Puts the two documents of each pair (`PAIR`) into one component."""
    for first, second in pairs.tolist():
      first, second = self.root(first), self.root(second)
      if first != second:
        self._parents[self._place(max(first, second))] = min(first, second)

  def copies(self, shard: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows of a shard that are copies, and the parent of each."""
    parents = self._parents[self._begins[shard] : self._begins[shard + 1]]
    rows = np.flatnonzero(parents != _NONE)
    return rows, parents[rows]


def remove(
  engine: Engine,
  name: str,
  shards: Sequence[str],
  output: str,
  counts: Sequence[int],
  pairs: Iterable[np.ndarray],
) -> dict[str, Any]:
  """Writes shards without copies, and returns what was kept and dropped.

  Args:
    name: of the work; its marks are in a folder of that name.
    output: folder of the new shards, which have the names of the old ones.
    counts: of the documents of each shard.
    pairs: arrays of `PAIR`; see `Kept`.

  Returns:
    As `stages.total`, with copies_by_source; each example has what was kept instead.
  """
  if len(shards) >= 2**_SHARDS:
    raise UserError(
      f'{len(shards):,} shards must be fewer than {2**_SHARDS:,}; join some'
    )
  folder = joined(engine.state, name, 'copies')
  with tempfile.TemporaryFile() as file:
    forest = Kept(counts, file)
    for some in pairs:
      forest.join(some)
    for shard in range(len(shards)):
      rows, parents = forest.copies(shard)
      roots = np.array([forest.root(parent) for parent in parents.tolist()], '<u8')
      with written(joined(folder, f'{shard:06d}')) as stream:
        stream.write(rows.astype('<u4').tobytes() + roots.tobytes())
  results = engine.map(
    joined(name, 'write'),
    functools.partial(_without_copies, folder, output),
    enumerate(shards),
  )
  by_source: collections.Counter[str] = collections.Counter()
  for each in results:
    by_source.update(each['copies_by_source'])
  report = total(results) | {'copies_by_source': dict(sorted(by_source.items()))}
  kept = [order for each in results for order in each['kept_instead']]
  for example, order in zip(report['examples'].get('copy', []), kept, strict=False):
    example |= _named(shards, order)
  return report


def _without_copies(
  folder: str, output: str, numbered: tuple[int, str]
) -> dict[str, Any]:
  """Writes a shard without its copies; returns what was kept and dropped of it."""
  shard, path = numbered
  with opened(joined(folder, f'{shard:06d}')) as stream:
    content = stream.read()
  count = len(content) // 12
  rows = np.frombuffer(content, '<u4', count).tolist()
  roots = dict(zip(rows, np.frombuffer(content, '<u8', count, 4 * count), strict=True))
  tally = Tally()
  by_source: collections.Counter[str] = collections.Counter()

  def kept() -> Iterator[Document]:
    for row, document in enumerate(read_shard(path)):
      if row in roots:
        tally.drop('copy', document)
        by_source[document.source] += 1
      else:
        tally.keep(document)
        yield document

  write_shard(joined(output, path.rpartition('/')[2]), kept())
  instead = [int(roots[row]) for row in sorted(roots)[:EXAMPLES]]
  return tally.result() | {'copies_by_source': by_source, 'kept_instead': instead}


def _named(shards: Sequence[str], order: int) -> dict[str, str]:
  """Returns the id and the beginning of the document that was kept."""
  shard, row = order >> _ROWS & (2**_SHARDS - 1), order & (2**_ROWS - 1)
  for number, document in enumerate(read_shard(shards[shard])):
    if number == row:
      return {'kept_instead': document.id, 'its_text': document.text[:SHOWN]}
  raise UserError(f'{shards[shard]} has no row {row}; run the stage again')
