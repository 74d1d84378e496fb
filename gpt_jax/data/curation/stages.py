"""What is kept and dropped, and stages that look at one document at a time."""

import collections
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from gpt_jax.data.curation.engine import Engine
from gpt_jax.data.curation.shards import Document, joined, read_shard, write_shard

EXAMPLES = 3  # documents shown of each reason
SHOWN = 200  # characters of an example

# What a stage makes of a document: itself or changed; or the reason why it is dropped.
Verdict = Document | str


class Tally:
  """Counts documents and characters that are kept, and dropped by reason."""

  def __init__(self):
    self._kept: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    self._dropped: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    self._examples: dict[str, list[dict[str, str]]] = collections.defaultdict(list)
    self._counts: collections.Counter[str] = collections.Counter()

  def keep(self, document: Document) -> None:
    """Counts a document that is kept."""
    _add(self._kept[document.source], len(document.text))

  def drop(self, reason: str, document: Document) -> None:
    """Counts a document that is dropped; the first of a reason are examples."""
    _add(self._dropped[reason], len(document.text))
    if len(self._examples[reason]) < EXAMPLES:
      example = {'id': document.id, 'text': document.text[:SHOWN]}
      self._examples[reason].append(example)

  def count(self, what: str, number: int = 1) -> None:
    """Counts something besides, such as documents that were changed."""
    self._counts[what] += number

  def result(self) -> dict[str, Any]:
    """Returns the counts as values of JSON; see `total`."""
    return {
      'kept': dict(sorted(self._kept.items())),
      'dropped': dict(sorted(self._dropped.items())),
      'examples': dict(sorted(self._examples.items())),
      'counts': dict(sorted(self._counts.items())),
    }


def _add(pair: list[int], characters: int) -> None:
  pair[0] += 1
  pair[1] += characters


def total(results: Iterable[dict[str, Any]]) -> dict[str, Any]:
  """Returns the report of a stage from the results of its shards, in their order.

  Returns:
    documents: how many came; kept: how many went on; characters: of those; by_source:
    of each source the documents and characters that were kept; dropped: documents by
    reason; characters_dropped: theirs; examples: some of each reason; and what else
    was counted.
  """
  whole = Tally()
  for result in results:
    for name in ('kept', 'dropped'):
      for key, pair in result[name].items():
        both = getattr(whole, f'_{name}')[key]
        both[:] = [a + b for a, b in zip(both, pair, strict=True)]
    for reason, examples in result['examples'].items():
      whole._examples[reason] = (whole._examples[reason] + examples)[:EXAMPLES]
    whole._counts.update(result['counts'])
  found = whole.result()
  kept, dropped = found['kept'].values(), found['dropped']
  return {
    'documents': sum(each[0] for each in [*kept, *dropped.values()]),
    'kept': sum(each[0] for each in kept),
    'characters': sum(each[1] for each in kept),
    'by_source': found['kept'],
    'dropped': {reason: pair[0] for reason, pair in dropped.items()},
    'characters_dropped': {reason: pair[1] for reason, pair in dropped.items()},
    'examples': found['examples'],
    **found['counts'],
  }


def each_document(
  engine: Engine,
  shards: Sequence[str],
  output: str,
  judge: Callable[[Document], Verdict],
  name: str,
) -> dict[str, Any]:
  """Writes shards of the documents that are kept, and returns a report.

  Args:
    output: folder of the new shards, which have the names of the old ones.
    judge: returns a document to keep, or the reason why it is dropped; as the function
      of `Engine.map`.
    name: of the work, as in `Engine.map`.

  Returns:
    As `total`.
  """
  return total(engine.map(name, functools.partial(_judged, output, judge), shards))


def _judged(
  output: str, judge: Callable[[Document], Verdict], path: str
) -> dict[str, Any]:
  """Writes the documents of a shard that are kept, and returns the counts."""
  tally = Tally()

  def kept() -> Iterator[Document]:
    for document in read_shard(path):
      verdict = judge(document)
      if isinstance(verdict, str):
        tally.drop(verdict, document)
        continue
      if verdict.text != document.text:
        tally.count('changed')
      tally.keep(verdict)
      yield verdict

  write_shard(joined(output, path.rpartition('/')[2]), kept())
  return tally.result()
