"""Dumps of Reddit's comments to files of dialogues, by the engine of curation; no jax.

A dump has a comment a line, as JSON, packed or not. The comments of a submission are
brought together from all dumps (`Engine.group`), made into dialogues and filtered
(`tasks/reddit.py`); so memory is that of the largest submission, the same command goes
on after a kill, and any number of workers writes the same bytes.
"""

import collections
import functools
import hashlib
import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from gpt_jax.config import UserError
from gpt_jax.data.curation import groups
from gpt_jax.data.curation.engine import Engine
from gpt_jax.data.curation.shards import joined, opened, written
from gpt_jax.data.formats import imported, unpack_zst
from gpt_jax.files import brief, lines, parse_json, read_text
from gpt_jax.tasks import dialogues, reddit
from gpt_jax.tasks.dialogues import Dialogue, plain
from gpt_jax.tasks.reddit import Comment, Report, Settings

PARTS = 16  # files that are written
_WINDOW = 1 << 31  # bytes; the public dumps are packed with --long=31
_SHOWN = 200  # characters of an example
_MEND = 'mend the line or take it out'
_COMMENT, _DROPPED = b'c', b'd'


def run(
  engine: Engine,
  dumps: Sequence[str],
  output: str,
  settings: Settings,
  blocked: str = '',
  tests: Sequence[str] = (),
) -> dict[str, Any]:
  """Writes the dialogues of dumps as .jsonl files, and returns a report.

  Args:
    dumps: .jsonl files of comments, or the same packed as .zst.
    output: folder of the files, which `dialogues.read` reads.
    settings: without blocked phrases.
    blocked: file of phrases, one a line, in any case; '': none.
    tests: files of dialogues. One that has the last two turns of one of these, case and
      marks aside, is dropped.

  Returns:
    counts: of comments and dialogues, by reason; 'kept' are dialogues; examples: of
    each reason.

  Raises:
    UserError: a file can't be read, is damaged or no dump; there is no such cleaning.
  """
  reddit.checked(settings)
  phrases = tuple(sorted(_phrases(blocked))) if blocked else ()
  known = tuple((str(path), _digest(path)) for path in tests)
  for path, _ in known:
    _pairs(path)
  paths = engine.group(
    'comments',
    _emit,
    functools.partial(_reduce, settings, phrases, known),
    [(str(path), pathlib.Path(path).stat().st_size) for path in dumps],
    PARTS,
  )
  results = engine.map('write', functools.partial(_write, output), enumerate(paths))
  whole = Report()
  for result in results:
    _join(whole, result)
  return _as_json(whole)


def _phrases(path: str) -> set[str]:
  return {line.strip().lower() for line in read_text(path).split('\n') if line.strip()}


def _digest(path: str) -> str:
  return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


@functools.cache
def _pairs(path: str) -> frozenset[tuple[str, ...]]:
  """Returns the last two turns of each dialogue of a file."""
  every = ([plain(turn.text) for turn in turns] for turns in dialogues.read(path))
  return frozenset(tuple(texts[-2:]) for texts in every if len(texts) > 1)


def _emit(item: tuple[str, int]) -> Iterator[groups.Entry]:
  """Yields the comments of a dump, and those that are dropped, by submission."""
  path, _ = item
  for number, line in _lines(path):
    if not line.strip():
      continue
    try:
      about = parse_json(line.decode(), f'{path}: line {number}', _MEND)
    except UnicodeDecodeError as error:
      raise UserError(f'{path}: line {number} is not UTF-8; {_MEND}') from error
    comment, reason = None, 'no comment'
    if isinstance(about, dict):
      comment, reason = reddit.comment(about)
    if comment:
      yield comment.link.encode(), _COMMENT + json.dumps(comment).encode()
      continue
    about = about if isinstance(about, dict) else {}
    link, text = str(about.get('link_id')), str(about.get('body'))[:_SHOWN]
    yield link.encode(), _DROPPED + json.dumps([reason, text]).encode()


def _lines(path: str) -> Iterator[tuple[int, bytes]]:
  """Yields the lines of a dump with their numbers."""
  if not path.endswith('.zst'):
    with opened(path) as stream:
      yield from lines(stream, path)
    return
  zstandard = imported('zstandard', path)
  try:
    with opened(path) as inner, unpack_zst(inner, _WINDOW) as stream:
      yield from lines(stream, path)
  except (zstandard.ZstdError, EOFError) as error:
    raise UserError(f'{path} is damaged: {brief(error)}; fetch it again') from error


def _reduce(
  settings: Settings,
  phrases: tuple[str, ...],
  known: Sequence[tuple[str, str]],
  link: bytes,
  values: Iterator[bytes],
) -> Iterable[bytes]:
  """Yields a record of a submission: its dialogues, and what was dropped why."""
  del link
  report, comments = Report(), {}
  for value in values:
    row = json.loads(value[1:])
    if value[:1] == _DROPPED:
      report.add(*row)
    elif row[0] in comments:  # dumps overlap
      report.add('same comment', row[3][:_SHOWN])
    else:
      comments[row[0]] = Comment(*row)
  settings = settings._replace(blocked=frozenset(phrases))
  kept, seen = [], set().union(*(_pairs(path) for path, _ in known))
  for turns in reddit.extract(comments.values(), settings, report):
    if _pair(turns) in seen:
      report.counts['kept'] -= 1
      report.add('of a test', '\n'.join(turn.text for turn in turns)[:_SHOWN])
    else:
      kept.append(dialogues.to_json(turns))
  yield json.dumps({'dialogues': kept, **_as_json(report)}).encode()


def _pair(turns: Dialogue) -> tuple[str, ...]:
  return tuple(plain(turn.text) for turn in turns[-2:])


def _as_json(report: Report) -> dict[str, Any]:
  counts = {name: n for name, n in sorted(report.counts.items()) if n}
  examples = {
    name: [text[:_SHOWN] for text in report.examples[name]]
    for name in counts
    if name in report.examples
  }
  return {'counts': counts, 'examples': examples}


def _join(whole: Report, result: dict[str, Any]) -> None:
  """Adds a report to another."""
  whole.counts += collections.Counter(result['counts'])
  for name, texts in result['examples'].items():
    there = whole.examples.setdefault(name, [])
    there += texts[: reddit.EXAMPLES - len(there)]


def _write(output: str, numbered: tuple[int, str]) -> dict[str, Any]:
  """Writes the dialogues of a part, and returns its report."""
  part, path = numbered
  whole = Report()
  with written(joined(output, f'{part:05d}.jsonl')) as stream:
    for record in groups.read_records(path):
      result = json.loads(record)
      _join(whole, result)
      for line in result['dialogues']:
        stream.write(line.encode() + b'\n')
  return _as_json(whole)
