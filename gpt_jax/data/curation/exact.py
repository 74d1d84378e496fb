"""Equal documents, and passages that stand in a corpus more than once.

Two documents are equal if the same letters and digits follow each other in both
(`data/duplicates.py`), by a hash of 128 bits. A passage is repeated if `n` words in a
row of it stood before: in an earlier document, or earlier in the same one. Every window
of n words has a hash, equal hashes meet, and all but the first are cut. So what is cut
is what a suffix array finds (Lee et al. 2022, "Deduplicating Training Data Makes
Language Models Better", section 4.1), in words for tokens, and but for the first copy,
which stays. A suffix array must be in memory, or in one place; windows are grouped like
anything else, in time linear in the corpus, at 20 bytes a word on the disk.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpt_jax.config import UserError
from gpt_jax.data.curation import blocks, components, grams
from gpt_jax.data.curation.components import PAIR, Scope
from gpt_jax.data.curation.engine import Engine
from gpt_jax.data.curation.groups import read_records
from gpt_jax.data.curation.shards import (
  Document,
  joined,
  opened,
  read_shard,
  write_shard,
  written,
)
from gpt_jax.data.curation.stages import Tally, total
from gpt_jax.data.duplicates import LEAST, letters_of

_TEXT = np.dtype([('high', '<u8'), ('low', '<u8'), ('order', '<u8'), ('source', '<u4')])
_WINDOW = np.dtype([('hash', '<u8'), ('order', '<u8'), ('word', '<u4')])
_PLACE = np.dtype([('order', '<u8'), ('word', '<u4')])


@dataclasses.dataclass(frozen=True)
class Exact:
  """Which equal documents are dropped.

  Attributes:
    priority: as in `Scope`.
    across: as in `Scope`.
    parts: files that what is grouped is divided over; 0: one for each shard.
  """

  priority: tuple[str, ...] = ()
  across: str = 'all'
  parts: int = 0


@dataclasses.dataclass(frozen=True)
class Passages:
  """Which repeated passages are cut.

  Attributes:
    n: words, between white space and in lower case.
    parts: files that what is grouped is divided over; 0: one for each shard.
  """

  n: int = 50
  parts: int = 0


def run(
  engine: Engine,
  shards: Sequence[str],
  output: str,
  settings: Exact,
  name: str = 'exact',
) -> dict[str, Any]:
  """Writes shards without equal documents; returns a report, as `components.remove`.

  Raises:
    UserError: a setting is wrong, or a shard is damaged.
  """
  scope = Scope(tuple(settings.priority), settings.across)
  if wrong := scope.wrong():
    raise UserError('exact: ' + '; '.join(wrong))
  folder = joined(engine.state, name, 'hashes')
  counts = engine.map(
    joined(name, 'hash'), functools.partial(_hash, scope, folder), enumerate(shards)
  )
  met = engine.group(
    joined(name, 'meet'),
    functools.partial(_hashes, blocks.bits_for(sum(counts)), folder),
    functools.partial(_equal, scope),
    range(len(shards)),
    blocks.parts_for(settings.parts, len(shards)),
  )
  pairs = (np.frombuffer(each, PAIR) for path in met for each in read_records(path))
  return components.remove(engine, name, shards, output, counts, pairs)


def digest(text: str) -> tuple[int, int]:
  """Returns two numbers of 64 bits, which equal documents share."""
  kept = letters_of(text)
  # Of too few letters the whole text stands for them: '1 + 1' is not '1 - 1'.
  whole = kept if len(kept) >= LEAST else b'\0' + text.encode('utf-8', 'surrogatepass')
  number = hashlib.blake2b(whole, digest_size=16).digest()
  return int.from_bytes(number[:8], 'little'), int.from_bytes(number[8:], 'little')


def _hash(scope: Scope, folder: str, numbered: tuple[int, str]) -> int:
  """Writes the hashes of a shard's documents, and returns how many there are."""
  shard, path = numbered
  count = 0
  with written(joined(folder, f'{shard:06d}')) as stream:
    for row, some in components.batches(path):
      rows = [
        (
          *digest(each.text),
          scope.order(each.source, shard, row + i),
          grams.number(each.source) % 2**32,
        )
        for i, each in enumerate(some)
      ]
      stream.write(np.array(rows, _TEXT).tobytes())
      count += len(some)
  return count


def _hashes(bits: int, folder: str, shard: int) -> Iterator[tuple[bytes, bytes]]:
  """Yields the records of a shard by the first bits of their hashes."""
  with opened(joined(folder, f'{shard:06d}')) as stream:
    records = np.frombuffer(stream.read(), _TEXT)
  yield from blocks.blocks(records['high'], records, bits, shard)


def _begins(*columns: np.ndarray) -> np.ndarray:
  """Returns where in sorted columns another value begins, booleans."""
  another = np.ones(len(columns[0]), bool)
  another[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
  return another


def _equal(scope: Scope, key: bytes, values: Iterator[bytes]) -> Iterator[bytes]:
  """Yields pairs (`PAIR`) that connect equal documents of a key."""
  firsts = np.empty(0, _TEXT)  # of each hash and source, of all chunks before
  for chunk in blocks.chunks(values, _TEXT):
    every = np.concatenate([firsts, chunk])
    names = 'order', 'source', 'low', 'high'
    every = every[np.lexsort([every[name] for name in names])]
    new = _begins(every['high'], every['low'], every['source'])
    firsts = every[new]
    copies = every['order'][~new]
    yield _pairs(firsts['order'][np.cumsum(new) - 1][~new], copies)
    by_order = firsts[np.lexsort([firsts[n] for n in ('order', 'low', 'high')])]
    new = _begins(by_order['high'], by_order['low'])
    first = by_order[new][np.cumsum(new) - 1][~new]
    other = by_order[~new]
    sources = first['source'], other['source']
    may = scope.compares(first['order'], other['order'], sources)
    yield _pairs(first['order'][may], other['order'][may])


def _pairs(first: np.ndarray, second: np.ndarray) -> bytes:
  pairs = np.empty(len(first), PAIR)
  pairs['first'], pairs['second'] = first, second
  return pairs.tobytes()


def cut_passages(
  engine: Engine,
  shards: Sequence[str],
  output: str,
  settings: Passages,
  name: str = 'passages',
) -> dict[str, Any]:
  """Writes shards without passages that stood before, and returns a report.

  Returns:
    As `stages.total`, with the documents that were cut and the characters cut of those
    that are left; documents of which nothing is left are dropped.

  Raises:
    UserError: a setting is wrong, or a shard is damaged.
  """
  if settings.n < 2:
    raise UserError(f'passages: n={settings.n} must be 2 words or more')
  shards = tuple(map(str, shards))
  counts = engine.map(joined(name, 'count'), _words, shards)
  met = engine.group(
    joined(name, 'meet'),
    functools.partial(_windows, settings.n, blocks.bits_for(sum(counts))),
    _again,
    enumerate(shards),
    blocks.parts_for(settings.parts, len(shards)),
  )
  done = engine.group(
    joined(name, 'cut'),
    _by_shard,
    functools.partial(_cut, shards, output, settings.n),
    [*met, *range(len(shards))],
    blocks.parts_for(settings.parts, len(shards)),
  )
  results = [json.loads(each) for path in done for each in read_records(path)]
  return total(result for _, result in sorted(results, key=lambda each: each[0]))


def _words(path: str) -> int:
  """Returns how many words a shard has."""
  return sum(len(document.text.split()) for document in read_shard(path))


def _windows(
  n: int, bits: int, numbered: tuple[int, str]
) -> Iterator[tuple[bytes, bytes]]:
  """Yields the windows of a shard's documents by the first bits of their hashes."""
  shard, path = numbered
  for row, some in components.batches(path):
    words = grams.words([each.text for each in some])
    hashes, begins = grams.grams(words.numbers, words.ends, n)
    owners = np.searchsorted(words.ends, begins, 'right')
    records = np.empty(len(hashes), _WINDOW)
    records['hash'] = hashes
    records['order'] = Scope().order('', shard, row) + owners.astype(np.uint64)
    records['word'] = begins - np.append(0, words.ends)[owners]
    # Blocks in the order of documents: the first window of a hash comes first.
    yield from blocks.blocks(hashes, records, bits, Scope().order('', shard, row))


def _again(key: bytes, values: Iterator[bytes]) -> Iterator[bytes]:
  """Yields the places (`_PLACE`) of windows whose hash had come before."""
  firsts = np.empty(0, _WINDOW)
  for chunk in blocks.chunks(values, _WINDOW):
    every = np.concatenate([firsts, chunk])
    every = every[np.lexsort([every[n] for n in ('word', 'order', 'hash')])]
    new = _begins(every['hash'])
    firsts = every[new]
    places = np.empty(int((~new).sum()), _PLACE)
    for field in ('order', 'word'):
      places[field] = every[field][~new]
    yield places.tobytes()


def _by_shard(item: str | int) -> Iterator[tuple[bytes, bytes]]:
  """Yields the places in a file by shard; of a number nothing, for that shard."""
  if isinstance(item, int):
    yield item.to_bytes(4, 'big'), b''
    return
  for record in read_records(item):
    places = np.frombuffer(record, _PLACE)
    shard = components.shard_of(places['order'])
    for each in np.unique(shard):
      yield int(each).to_bytes(4, 'big'), places[shard == each].tobytes()


def _cut(
  shards: Sequence[str], output: str, n: int, key: bytes, values: Iterator[bytes]
) -> Iterator[bytes]:
  """Writes a shard without the windows at some places; yields its number and tally."""
  shard = int.from_bytes(key, 'big')
  places = np.concatenate([np.frombuffer(value, _PLACE) for value in values])
  places.sort()
  rows, words = components.row_of(places['order']), places['word'].astype(np.int64)
  tally = Tally()

  def kept() -> Iterator[Document]:
    for row, document in enumerate(read_shard(shards[shard])):
      text = document.text
      inside = slice(*np.searchsorted(rows, [row, row + 1]))
      if inside.start < inside.stop:
        text = without(text, words[inside], n)
        if not text.strip():
          tally.drop('nothing_left', document)
          continue
        tally.count('cut')
        tally.count('characters_cut', len(document.text) - len(text))
      tally.keep(document._replace(text=text))
      yield document._replace(text=text)

  write_shard(joined(output, shards[shard].rpartition('/')[2]), kept())
  yield json.dumps([shard, tally.result()]).encode()


def without(text: str, windows: np.ndarray, n: int) -> str:
  """Returns a text without windows of n words that begin at some words, ascending."""
  places = grams.places(text)
  ends = windows + n
  new = np.append(True, windows[1:] > ends[:-1])
  begins, ends = windows[new], ends[np.append(new[1:], True)]
  left, after = [], 0
  for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
    left.append(text[after : places[begin][0]])
    after = places[end - 1][1]
  return ''.join([*left, text[after:]])
