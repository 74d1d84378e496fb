"""Takes texts of benchmarks out of a corpus, as GPT-3 did (Brown et al. 2020, App. C).

Where 13 words in a row of a document are 13 words in a row of a given text (lower case,
no punctuation), they are cut with 200 characters on each side, and what is left of the
document are pieces. Pieces of fewer than 200 characters are dropped, and documents in
more than 10 pieces as a whole. Of 13 words that more than 10 documents have nothing is
cut: they are common phrases, or laws. So a first pass counts, and a second one cuts.

Choices where the paper leaves one: its window is 200 characters, on each side or
together it doesn't say: here on each side. Pieces are counted before short ones are
dropped. A document counts once for each 13 words, however often it has them.
"""

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from gpt_jax.config import UserError
from gpt_jax.data import sources
from gpt_jax.data.curation import components, grams
from gpt_jax.data.curation.engine import Engine
from gpt_jax.data.curation.shards import (
  Document,
  joined,
  opened,
  write_shard,
  written,
)
from gpt_jax.data.curation.stages import EXAMPLES, SHOWN, Tally, total

_BITS = 24  # of a table that says of most grams that they are not in an index
_BATCH = 1000  # texts that are read at once


@dataclasses.dataclass(frozen=True)
class Decontaminate:
  """What is cut.

  Attributes:
    against: files of the texts, as `data.source` takes them: one a document.
    tasks: prompted tasks whose texts are looked for besides; `launch.py curate` reads
      them.
    data: folder of the folders of tasks.
    n: words of a gram.
    window: characters that are cut before and after it.
    least: characters of a piece that is kept.
    pieces: a document in more of them is dropped.
    frequent: a gram that more documents have is left where it is.
  """

  against: str = ''
  tasks: tuple[str, ...] = ()
  data: str = ''
  n: int = 13
  window: int = 200
  least: int = 200
  pieces: int = 10
  frequent: int = 10

  def check(self) -> None:
    """Raises a UserError if a value is out of its range."""
    lows = {'n': 1, 'window': 0, 'least': 1, 'pieces': 1, 'frequent': 0}
    wrong = [
      f'{name}={getattr(self, name)} must be {low} or more'
      for name, low in lows.items()
      if getattr(self, name) < low
    ]
    if not self.against:
      wrong.append('against= names no texts; give files, or tasks')
    if wrong:
      raise UserError('decontaminate: ' + '; '.join(wrong))


class Index:
  """The n-grams of some texts, sorted: 8 bytes each, and a table of 16 MB."""

  def __init__(self, numbers: np.ndarray):
    """Takes the numbers of the grams, uint64, sorted, each once."""
    self.numbers = numbers
    self._table = np.zeros(1 << _BITS, bool)
    self._table[numbers >> np.uint64(64 - _BITS)] = True

  def find(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns which of some grams are in the index, and where in it they are."""
    some = np.flatnonzero(self._table[numbers >> np.uint64(64 - _BITS)])
    at = np.searchsorted(self.numbers, numbers[some])
    at = np.minimum(at, len(self.numbers) - 1)
    right = self.numbers[at] == numbers[some] if len(self.numbers) else at < 0
    return some[right], at[right]


def index(texts: Iterable[str], n: int) -> tuple[np.ndarray, int, int]:
  """Returns the n-grams of texts, uint64, sorted, each once.

  Returns:
    With them how many texts there were, and how many were too short to have one.
  """
  every, count, short = [np.empty(0, np.uint64)], 0, 0
  texts = iter(texts)
  while some := list(itertools.islice(texts, _BATCH)):
    words = grams.words(some, grams.BARE)
    every.append(np.unique(grams.grams(words.numbers, words.ends, n)[0]))
    count += len(some)
    short += int((np.diff(words.ends, prepend=0) < n).sum())
  return np.unique(np.concatenate(every)), count, short


def run(
  engine: Engine,
  shards: Sequence[str],
  output: str,
  settings: Decontaminate,
  name: str = 'decontaminate',
) -> dict[str, Any]:
  """Writes shards without what the given texts have, and returns a report.

  A document that is cut becomes one for each piece, whose ids end in .0, .1 and so on.

  Args:
    shards: paths.
    output: folder of the new shards, which have the names of the old ones.
    name: of the work in the engine's state.

  Returns:
    As `stages.total`, where kept are documents of which something is left, and written
    those with every piece as one; cut, documents of which pieces were kept; pieces,
    pieces_too_short and characters_cut of these; texts and grams that were looked for,
    grams found, and those passed over as frequent.

  Raises:
    UserError: a setting is wrong, a text can't be read, or a shard is damaged.
  """
  settings.check()
  numbers, texts, short = index(
    (each.text for each in sources.documents(settings.against)), settings.n
  )
  # Marks are of these grams, wherever the texts are: other texts, other names.
  settings = dataclasses.replace(settings, against='', tasks=(), data='')
  digest = hashlib.blake2b(numbers.tobytes(), digest_size=8).hexdigest()
  path = joined(engine.state, name, f'grams-{digest}')
  with written(path) as stream:
    stream.write(numbers.tobytes())
  counts = joined(engine.state, name, 'counts')
  engine.map(
    joined(name, 'count'),
    functools.partial(_count, settings, path, counts),
    enumerate(map(str, shards)),
  )
  found = np.zeros(len(numbers), np.int64)
  for shard in range(len(shards)):
    at, documents = _pairs(joined(counts, f'{shard:06d}'))
    found[at] += documents
  rare = joined(engine.state, name, f'rare-{digest}')
  with written(rare) as stream:
    stream.write(numbers[(found > 0) & (found <= settings.frequent)].tobytes())
  results = engine.map(
    joined(name, 'cut'),
    functools.partial(_cut, settings, rare, output),
    map(str, shards),
  )
  report = total(results)
  documents = sum(each['documents'] for each in results)
  examples = [each for result in results for each in result['shown']][:EXAMPLES]
  return report | {
    'documents': documents,
    'kept': documents - sum(report['dropped'].values()),
    'written': report['kept'],
    'texts': texts,
    'texts_without_a_gram': short,
    'grams': len(numbers),
    'grams_found': int((found > 0).sum()),
    'grams_frequent': int((found > settings.frequent).sum()),
    'examples': {'cut': examples} | report['examples'],
  }


@functools.lru_cache(2)
def index_in(path: str) -> Index:
  """Returns the index in a file, which a process reads once."""
  with opened(path) as stream:
    return Index(np.frombuffer(stream.read(), '<u8'))


def _pairs(path: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns two columns of numbers in a file: [2][rows], uint32."""
  with opened(path) as stream:
    columns = np.frombuffer(stream.read(), '<u4').reshape(2, -1)
  return columns[0], columns[1]


def _count(
  settings: Decontaminate, path: str, folder: str, numbered: tuple[int, str]
) -> int:
  """Writes which grams a shard's documents have, and how many have each."""
  shard, source = numbered
  known = index_in(path)
  total = np.zeros(len(known.numbers), np.uint32)
  for _, some in components.batches(source):
    words = grams.words([each.text for each in some], grams.BARE)
    numbers, begins = grams.grams(words.numbers, words.ends, settings.n)
    which, at = known.find(numbers)
    document = np.searchsorted(words.ends, begins[which], 'right')
    once = np.unique(document * len(known.numbers) + at)  # a gram in a document
    np.add.at(total, once % max(1, len(known.numbers)), 1)
  at = np.flatnonzero(total)
  with written(joined(folder, f'{shard:06d}')) as stream:
    stream.write(at.astype('<u4').tobytes() + total[at].astype('<u4').tobytes())
  return len(at)


def spans(text: str, known: Index, n: int) -> list[tuple[int, int]]:
  """Returns where in a text grams of an index begin and end, in characters.

  From the first character of the first word to the last one of the last word, with
  their punctuation. They may overlap.
  """
  words = grams.words([text], grams.BARE)
  numbers, begins = grams.grams(words.numbers, words.ends, n)
  which, _ = known.find(numbers)
  if not len(which):
    return []
  places = grams.places(text)
  return [
    (places[words.places[i]][0], places[words.places[i + n - 1]][1])
    for i in begins[which].tolist()
  ]


def pieces(text: str, cuts: Iterable[tuple[int, int]], window: int) -> list[str]:
  """Returns what is left of a text where spans are cut with a window on each side."""
  left, end = [], 0
  for begin, after in sorted(cuts):
    if begin - window > end:
      left.append(text[end : begin - window])
    end = max(end, after + window)
  return [*left, text[end:]] if end < len(text) else left


def _cut(
  settings: Decontaminate, path: str, output: str, source: str
) -> dict[str, Any]:
  """Writes a shard without grams of an index; returns counts and examples."""
  known = index_in(path)
  tally, shown, documents = Tally(), [], 0

  def kept() -> Iterator[Document]:
    nonlocal documents
    for _, some in components.batches(source):
      documents += len(some)
      dirty = _with_grams([each.text for each in some], known, settings.n)
      for number, document in enumerate(some):
        left = [document]
        if number in dirty:
          found = spans(document.text, known, settings.n)
          left = _left_of(document, found, settings, tally)
          if len(shown) < EXAMPLES:
            begin, end = found[0]
            text = document.text[begin:end][:SHOWN]
            shown.append({'id': document.id, 'text': text})
        for each in left:
          tally.keep(each)
          yield each

  write_shard(joined(output, source.rpartition('/')[2]), kept())
  return tally.result() | {'documents': documents, 'shown': shown}


def _with_grams(texts: Sequence[str], known: Index, n: int) -> set[int]:
  """Returns the numbers of the texts that have a gram of an index."""
  words = grams.words(texts, grams.BARE)
  numbers, begins = grams.grams(words.numbers, words.ends, n)
  which, _ = known.find(numbers)
  return {*np.searchsorted(words.ends, begins[which], 'right').tolist()}


def _left_of(
  document: Document,
  found: Sequence[tuple[int, int]],
  settings: Decontaminate,
  tally: Tally,
) -> list[Document]:
  """Returns the pieces that are kept of a document, without spans, and counts."""
  text = document.text
  every = pieces(text, found, settings.window)
  good = [each for each in every if len(each) >= settings.least]
  if len(every) > settings.pieces:
    tally.drop('too_many_pieces', document)
    return []
  if not good:
    tally.drop('nothing_left', document)
    return []
  tally.count('cut')
  tally.count('pieces', len(good))
  tally.count('pieces_too_short', len(every) - len(good))
  tally.count('characters_cut', len(text) - sum(map(len, good)))
  return [
    document._replace(id=f'{document.id}.{i}', text=each) for i, each in enumerate(good)
  ]
