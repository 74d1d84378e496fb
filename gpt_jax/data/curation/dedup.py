"""Fuzzy de-duplication: of texts that are nearly alike only the first is kept.

Two modes. 'bands': 14 bands of 8 hashes over 5 words in a row. 'gpt3': 10 hashes over
the words of a text, as Spark's MinHashLSH with 10 tables (Brown et al. 2020, appendix
A): texts are candidates if any hash is the same. Of candidates the true Jaccard
similarity is computed, on the same elements, and what reaches a threshold is a copy.
Copies of copies are copies (connected components), and of each component the first
document is kept, by priority of its source and its place.

The paper doesn't say its threshold; ours is 0.5, that of OpenWebText's reproduction of
WebText (Gokaslan & Cohen 2019).

Differs: of a bucket with more texts than `window` not all pairs are compared; Spark
would, at quadratic cost (`candidates`).
"""

import dataclasses
import functools
import itertools
import json
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpt_jax.config import UserError
from gpt_jax.data.curation import blocks, candidates, components, grams, minhash
from gpt_jax.data.curation.candidates import COUNTS, PAIRS, Plan
from gpt_jax.data.curation.components import PAIR, Scope
from gpt_jax.data.curation.engine import Engine
from gpt_jax.data.curation.groups import read_records
from gpt_jax.data.curation.shards import joined, opened, written

_GPT3 = 10  # tables of one hash
_THRESHOLDS = {'bands': 0.7, 'gpt3': 0.5}
_BUFFER = 1 << 18  # pairs that are sorted at once
_ELEMENTS = 1 << 22  # of the sets that are compared at once
_ROWS, _BLOCK = b'0', b'1'  # what values begin with, in this order
_HEAD = struct.Struct('<II')  # pairs and texts of a block


@dataclasses.dataclass(frozen=True)
class Dedup:
  """How copies are found.

  Attributes:
    mode: 'bands' or 'gpt3'.
    bands: of a signature; mode 'bands'.
    rows: hashes of a band; mode 'bands'.
    threshold: the least Jaccard similarity of a copy; 0: of the mode, 0.7 and 0.5.
    window: texts of a bucket that a text is compared with, at most.
    priority: as in `Scope`.
    across: as in `Scope`.
    parts: files that what is grouped is divided over; 0: one for each shard.
  """

  mode: str = 'bands'
  bands: int = 14
  rows: int = 8
  threshold: float = 0.0
  window: int = 32
  priority: tuple[str, ...] = ()
  across: str = 'all'
  parts: int = 0

  def plan(self) -> Plan:
    """Returns the settings as candidates need them, or raises a UserError."""
    scope = Scope(tuple(self.priority), self.across)
    wrong = scope.wrong()
    if self.mode not in _THRESHOLDS:
      wrong.append(f'mode={self.mode!r} must be one of {", ".join(_THRESHOLDS)}')
    for name, least, most in (
      ('bands', 1, 255),
      ('rows', 1, 64),
      ('window', 1, 4096),
      ('parts', 0, 65536),
    ):
      if not least <= getattr(self, name) <= most:
        wrong.append(f'{name}={getattr(self, name)} must be from {least} to {most}')
    if self.mode == 'gpt3' and (self.bands, self.rows) != (Dedup.bands, Dedup.rows):
      wrong.append(
        f"bands={self.bands}, rows={self.rows} say nothing to mode='gpt3', which has "
        '10 tables of one hash; leave them out'
      )
    if not 0 <= self.threshold <= 1:
      wrong.append(f'threshold={self.threshold} must be from 0 (the mode says) to 1')
    if wrong:
      raise UserError('dedup: ' + '; '.join(wrong))
    bands, rows = (_GPT3, 1) if self.mode == 'gpt3' else (self.bands, self.rows)
    least = self.threshold or _THRESHOLDS[self.mode]
    return Plan(bands, rows, least, self.window, scope)


def run(
  engine: Engine,
  shards: Sequence[str],
  output: str,
  settings: Dedup,
  name: str = 'dedup',
) -> dict[str, Any]:
  """Writes shards without copies, and returns a report.

  Args:
    shards: paths; a document's place is that of its shard in them, and in the shard.
    output: folder of the new shards.
    name: of the work in the engine's state.

  Returns:
    What `components.remove` returns; `empty`, texts without words, which are kept; the
    settings; and how many pairs were candidates, compared and left out.

  Raises:
    UserError: a setting is wrong, or a shard is damaged.
  """
  plan, shingles = settings.plan(), settings.mode == 'bands'
  shards = tuple(map(str, shards))
  folder = joined(engine.state, name, 'signatures')
  signed = engine.map(
    joined(name, 'sign'),
    functools.partial(_sign, plan, shingles, folder),
    enumerate(shards),
  )
  counts = [documents for documents, _ in signed]
  bits = blocks.bits_for(sum(counts))
  met = engine.group(
    joined(name, 'meet'),
    functools.partial(_meet, plan, bits, folder),
    functools.partial(candidates.compare, plan),
    range(len(shards)),
    blocks.parts_for(settings.parts, len(shards)),
  )
  gathered = engine.group(
    joined(name, 'gather'),
    _by_first_shard,
    functools.partial(_with_elements, shards, shingles),
    met,
    blocks.parts_for(settings.parts, len(shards)),
  )
  verified = engine.group(
    joined(name, 'verify'),
    _by_second_shard,
    functools.partial(_alike, shards, shingles, plan.threshold),
    gathered,
    blocks.parts_for(settings.parts, len(shards)),
  )
  found = _sums(met) | {'candidates': 0, 'alike': 0} | _sums(verified)
  report = components.remove(
    engine, name, shards, output, counts, map(_pairs_of, _records(verified, PAIRS))
  )
  return report | {
    'empty': sum(empty for _, empty in signed),
    'mode': settings.mode,
    'elements': f'{minhash.SHINGLE} words' if shingles else 'words',
    'bands': plan.bands,
    'rows': plan.rows,
    'threshold': plan.threshold,
    'window': plan.window,
    'signatures': minhash.VERSION,
    'pairs': found,
  }


def _sign(
  plan: Plan, shingles: bool, folder: str, numbered: tuple[int, str]
) -> list[int]:
  """Writes the signatures of a shard; returns its documents, and how many are empty."""
  shard, path = numbered
  documents = empty = 0
  with written(joined(folder, f'{shard:06d}')) as stream:
    for row, some in components.batches(path):
      elements, ends = minhash.features([each.text for each in some], shingles)
      hashes = minhash.signatures(elements, ends, plan.bands * plan.rows + plan.sketch)
      signed = np.empty(len(some), plan.signed())
      signed['bands'] = minhash.banded(hashes, plan.bands, plan.rows)
      signed['sketch'] = hashes[:, plan.bands * plan.rows :]  # their last 8 bits
      signed['source'] = [grams.number(each.source) % 2**32 for each in some]
      signed['order'] = [
        plan.scope.order(each.source, shard, row + i) for i, each in enumerate(some)
      ]
      full = np.diff(ends, prepend=0) > 0
      stream.write(signed[full].tobytes())
      documents += len(some)
      empty += len(some) - int(full.sum())
  return [documents, empty]


def _meet(
  plan: Plan, bits: int, folder: str, shard: int
) -> Iterator[tuple[bytes, bytes]]:
  """Yields the blocks of a shard."""
  with opened(joined(folder, f'{shard:06d}')) as stream:
    signed = np.frombuffer(stream.read(), plan.signed())
  yield from candidates.emit(plan, bits, shard, signed)


def _records(paths: Sequence[str], kind: bytes) -> Iterator[bytes]:
  """Yields the records of a kind in files of groups."""
  for path in paths:
    yield from (each for each in read_records(path) if each[:1] == kind)


def _sums(paths: Sequence[str]) -> dict[str, int]:
  """Returns the sums of counts in files of groups, and of 'largest' the maximum."""
  total: dict[str, int] = {}
  for record in _records(paths, COUNTS):
    for name, count in json.loads(record[1:]).items():
      before = total.get(name, 0)
      total[name] = max(before, count) if name == 'largest' else before + count
  return total


def _pairs_of(record: bytes) -> np.ndarray:
  """Returns the pairs in a record of pairs."""
  return np.frombuffer(record, PAIR, offset=1)


def _key(shard: int) -> bytes:
  return shard.to_bytes(4, 'big')


def _by_first_shard(path: str) -> Iterator[tuple[bytes, bytes]]:
  """Yields the pairs of a file by the shard of their first document."""
  some, size = [], 0
  for pairs in map(_pairs_of, _records([path], PAIRS)):
    some.append(pairs)
    size += len(pairs)
    if size >= _BUFFER:
      yield from _by_shard(np.concatenate(some))
      some, size = [], 0
  if some:
    yield from _by_shard(np.concatenate(some))


def _by_shard(pairs: np.ndarray) -> Iterator[tuple[bytes, bytes]]:
  pairs = components.distinct(pairs)
  shard = components.shard_of(pairs['first'])
  for each in np.unique(shard):
    yield _key(int(each)), pairs[shard == each].tobytes()


def _with_elements(
  shards: Sequence[str], shingles: bool, key: bytes, values: Iterator[bytes]
) -> Iterator[bytes]:
  """Yields a shard's pairs, each once, with the elements of their first documents.

  They come in blocks whose second documents are of one shard: counts, pairs in order
  of the first, the number of elements of each first document, and those.
  """
  every = np.concatenate([np.frombuffer(value, PAIR) for value in values])
  pairs = components.distinct(every)
  rows = components.row_of(pairs['first'])
  by_row = np.argsort(rows, kind='stable')
  pairs, rows = pairs[by_row], rows[by_row]
  for inside, elements, ends, which in _elements(
    shards[int.from_bytes(key, 'big')], rows, shingles
  ):
    other = components.shard_of(pairs['second'][inside])
    for shard in np.unique(other):
      mine = np.flatnonzero(other == shard)
      firsts = np.unique(which[mine])
      own, own_ends = _taken(elements, ends, firsts)
      yield b''.join(
        (
          _HEAD.pack(len(mine), len(firsts)),
          pairs[inside][mine].tobytes(),
          np.diff(own_ends, prepend=0).astype('<u4').tobytes(),
          own.astype('<u4').tobytes(),
        )
      )


def _elements(
  path: str, rows: np.ndarray, shingles: bool
) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
  """Yields the sets of elements of a shard's documents, some at a time.

  Args:
    rows: of the documents, in ascending order, each as often as one likes.

  Yields:
    Which of `rows` they are; elements and ends of different documents; and which of
    these each row is.
  """
  for begin, some in components.batches(path):
    inside = slice(*np.searchsorted(rows, [begin, begin + len(some)]))
    if inside.start < inside.stop:
      needed, which = np.unique(rows[inside], return_inverse=True)
      texts = [some[row - begin].text for row in needed]
      yield inside, *minhash.distinct(*minhash.features(texts, shingles)), which


def _taken(
  elements: np.ndarray, ends: np.ndarray, which: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns some of several sets, which may repeat: their elements, and their ends."""
  sizes = np.diff(ends, prepend=0)[which]
  new = np.cumsum(sizes)
  from_old = np.repeat(ends[which] - new, sizes)
  return elements[from_old + np.arange(len(from_old))], new


def _by_second_shard(path: str) -> Iterator[tuple[bytes, bytes]]:
  """Yields the blocks of a file by the shard of their second documents.

  For each there is a value with the rows of those documents besides, and these values
  come first.
  """
  for block in read_records(path):
    second = np.frombuffer(block, PAIR, _HEAD.unpack_from(block)[0], _HEAD.size)[
      'second'
    ]
    key = _key(int(components.shard_of(second[:1])[0]))
    yield key, _ROWS + np.unique(components.row_of(second)).astype('<u4').tobytes()
    yield key, _BLOCK + block


def _alike(
  shards: Sequence[str],
  shingles: bool,
  threshold: float,
  key: bytes,
  values: Iterator[bytes],
) -> Iterator[bytes]:
  """Yields the pairs of a shard's blocks that reach a threshold, and counts."""
  rows = np.empty(0, np.int64)
  while (value := next(values))[:1] == _ROWS:
    rows = np.union1d(rows, np.frombuffer(value, '<u4', offset=1)).astype(np.int64)
  sets = list(_elements(shards[int.from_bytes(key, 'big')], rows, shingles))
  right = np.concatenate([elements for _, elements, _, _ in sets])
  right_ends = np.cumsum(
    np.concatenate([np.diff(ends, prepend=0) for _, _, ends, _ in sets])
  )
  candidates = alike = 0
  for block in itertools.chain([value], values):
    block = memoryview(block)[1:]
    number, firsts = _HEAD.unpack_from(block)
    pairs = np.frombuffer(block, PAIR, number, _HEAD.size)
    place = _HEAD.size + pairs.nbytes
    left_ends = np.cumsum(np.frombuffer(block, '<u4', firsts, place), dtype=np.int64)
    left = np.frombuffer(block, '<u4', offset=place + 4 * firsts)
    which = np.unique(components.row_of(pairs['first']), return_inverse=True)[1]
    where = np.searchsorted(rows, components.row_of(pairs['second']))
    both = np.diff(left_ends, prepend=0)[which] + np.diff(right_ends, prepend=0)[where]
    cuts = np.flatnonzero(np.diff(np.cumsum(both) // _ELEMENTS)) + 1
    for some in np.split(np.arange(number), cuts):
      similar = minhash.similarities(
        _taken(left, left_ends, which[some]), _taken(right, right_ends, where[some])
      )
      good = pairs[some][similar >= threshold]
      alike += len(good)
      if len(good):
        yield PAIRS + good.tobytes()
    candidates += number
  yield COUNTS + json.dumps({'candidates': candidates, 'alike': alike}).encode()
