"""Rows of the files in which labelled tasks are published: dicts by column.

Every error names the file and its line, or the data set and its row. A row says where
it was: `where`, with the file, and `line`, its number (of a question in its passage for
RACE).
"""

import csv
import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpt_jax.config import UserError, nearest
from gpt_jax.data.hub import hub_rows, open_hub
from gpt_jax.files import brief, listed, of_kind, parse_json, shown
from gpt_jax.files import lines as lines_of
from gpt_jax.tokenizers.texts import encodable

Row = dict[str, Any]
_LETTERS = 'ABCD'


def tsv(path: Path, names: tuple[str, ...] = (), extra: int = 0) -> Iterator[Row]:
  """Yields the rows of tab-separated text without any quoting, as in GLUE.

  Args:
    path: the file, in UTF-8.
    names: of the columns; none: the first line has them.
    extra: columns without a name that may follow them.

  Raises:
    UserError: the file can't be read, or a line has another number of columns.
  """
  lines = ((number, text.split('\t')) for number, text in _lines(path))
  return _table(path, lines, names, extra)


def comma_separated(path: Path) -> Iterator[Row]:
  """Yields the rows of a .csv with a line of names, one line a row.

  Raises:
    UserError: as `tsv`; a quote that its line does not close.
  """
  return _table(path, _csv(path), (), 0)


def _csv(path: Path) -> Iterator[tuple[int, list[str]]]:
  """Yields the number and the cells of each line."""
  for number, text in _lines(path):
    try:
      yield number, next(csv.reader([text], strict=True))
    except csv.Error as e:
      raise UserError(f'{path}: line {number}: not CSV ({e}); mend it') from e


def _table(
  path: Path,
  lines: Iterator[tuple[int, list[str]]],
  names: tuple[str, ...],
  extra: int,
) -> Iterator[Row]:
  """Yields the rows of lines that are cut in cells."""
  for number, cells in lines:
    if not names:
      names = tuple(cells)
      continue
    if not len(names) <= len(cells) <= len(names) + extra:
      up_to = f' to {len(names) + extra}' if extra else ''
      raise UserError(
        f'{path}: line {number} has {len(cells)} columns, not {len(names)}{up_to}: '
        f'{listed(names)}; a text may hold no tab and no line break, so mend the '
        'line or take it out'
      )
    yield dict(zip(names, cells, strict=False)) | _place(path, number)


def lines(path: Path) -> Iterator[Row]:
  """Yields the lines of a text as rows of one column, `text`; not the empty ones.

  Raises:
    UserError: the file can't be read.
  """
  for number, text in _lines(path):
    yield {'text': text} | _place(path, number)


def json_lines(path: Path) -> Iterator[Row]:
  """Yields the objects of a file that has one a line.

  Raises:
    UserError: the file can't be read, or a line is no object.
  """
  for number, text in _lines(path):
    place = _place(path, number)
    where = place['where']
    yield of_kind(parse_json(text, where, 'mend it'), dict, where, 'mend it') | place


def race(folder: Path) -> Iterator[Row]:
  """Yields the questions of RACE's passages: article, question, A to D, answer, id.

  Args:
    folder: of .txt files at any depth, or one file; in each a line is an object with
      article, questions, options and answers (Lai et al. 2017). Without `answers`, rows
      have no `answer`.

  Raises:
    UserError: a file can't be read or holds other objects.
  """
  files = sorted(folder.rglob('*.txt')) if folder.is_dir() else [folder]
  for path in files:
    for passage in json_lines(path):
      need(passage, ('article', 'questions', 'options'))
      where, options = passage['where'], passage['options']
      parts = passage['questions'], options, passage.get('answers', options)
      lengths = {len(part) if isinstance(part, list) else -1 for part in parts}
      if len(lengths) > 1 or -1 in lengths:
        raise UserError(
          f'{where}: questions, options and answers must be lists of one length, an '
          'entry for each question; fetch the file again'
        )
      for i, (question, choices, answer) in enumerate(zip(*parts, strict=True)):
        yield {
          'article': passage['article'],
          'question': question,
          **_lettered(f'{where}: question {i}', choices),
          **({'answer': answer} if 'answers' in passage else {}),
          'id': f'{passage.get("id", path.name)}:{i}',
          'where': f'{where}: question {i}',
          'line': str(i),
        }


def _lettered(where: str, choices: Any) -> Row:
  """Returns four choices as the columns A to D."""
  if not isinstance(choices, list) or len(choices) != len(_LETTERS):
    raise UserError(f'{where} has options {shown(choices)}, not 4; mend it')
  return dict(zip(_LETTERS, choices, strict=True))


def mctest(path: Path) -> Iterator[Row]:
  """Yields the questions of MCTest's stories: story, question, A to D, answer, id.

  Args:
    path: the .tsv: id, properties, story, and four questions of five columns. The
      answers are in the .ans beside it; without that, rows have no `answer`. What the
      file writes as \\newline and \\tab is what they say; before a question stood
      whether one sentence answers it or several ('one: ', 'multiple: ').

  Raises:
    UserError: a file can't be read, has other columns, or the two differ in lines.
  """
  questions = [f'{kind}{i}' for i in range(4) for kind in ('question', *_LETTERS)]
  keys = path.with_suffix('.ans')
  answers = list(tsv(keys, tuple('0123'))) if keys.exists() else None
  stories = list(tsv(path, ('id', 'properties', 'story', *questions)))
  if answers is not None and len(answers) != len(stories):
    raise UserError(
      f'{keys} has {len(answers)} lines, {path} has {len(stories)}: they do not belong '
      'together; fetch both again'
    )
  for at, story in enumerate(stories):
    text = {
      k: v.replace('\\newline', '\n').replace('\\tab', '\t') for k, v in story.items()
    }
    for i in range(4):
      yield {
        'story': text['story'],
        'question': text[f'question{i}']
        .removeprefix('one: ')
        .removeprefix('multiple: '),
        **{letter: text[f'{letter}{i}'] for letter in _LETTERS},
        **({'answer': answers[at][str(i)]} if answers else {}),
        'id': f'{text["id"]}:{i}',
        'where': f'{story["where"]}{"" if answers else f" (no {keys.name} beside it)"}',
        'line': story['line'],
      }


def hub(
  source: str, split: str, label: str, classes: tuple[str, ...], wanted: str
) -> Iterator[Row]:
  """Yields the rows of a data set of Hugging Face's, counted from 0 as `datasets` does.

  Labels become text, as in files. A class is its name, because its number is a matter
  of the data set; one without a name stays a number: -1 says that there is no label. A
  score has the fewest decimals that tell it from others of 32 bits, as its file has. A
  list of options becomes the columns A to D.

  Args:
    source: hf:NAME or hf:NAME:CONFIG, either with @REVISION behind; or hf:FOLDER (see
      `hub.open_hub`).
    classes: the names that a column of classes must have, in any order.
    wanted: what to give instead, for errors.

  Raises:
    UserError: it can't be opened, or has other classes.
  """
  name, config, revision = source.removeprefix('hf:'), '', ''
  if not Path(name).expanduser().is_dir():
    name, _, revision = name.partition('@')
    name, _, config = name.partition(':')
  table = open_hub(source, name, split, config, revision)
  names = [*map(str, getattr(table.features.get(label), 'names', None) or ())]
  if names and set(names) != set(classes):
    raise UserError(
      f'{source}: the classes of {label!r} are {listed(names)}, not '
      f'{", ".join(classes) or "scores"}; give {wanted}'
    )
  for number, row in enumerate(hub_rows(source, table)):
    row |= {'where': f'{source}: {split}: row {number}', 'line': str(number)}
    yield _as_in_files(row, label, names)


def exported(path: Path, label: str, classes: tuple[str, ...]) -> Iterator[Row]:
  """Yields the rows of a data set of the hub that was written as JSON lines.

  They are as `hub` has them. Where labels are whole numbers, the file does not name the
  classes: they are counted as the data set has them.

  Args:
    classes: their names in its order; numerals stand for themselves.

  Raises:
    UserError: as `json_lines`.
  """
  names = () if all(map(str.isdigit, classes)) else classes
  for row in json_lines(path):
    yield _as_in_files(row, label, names)


def _as_in_files(row: Row, label: str, names: Sequence[str]) -> Row:
  """Returns a row of the hub with its label as text, and options as columns."""
  value = row.get(label)
  if isinstance(value, float):
    row[label] = str(np.float32(value))
  elif isinstance(value, int):
    row[label] = names[value] if 0 <= value < len(names) else str(value)
  if 'options' in row:
    row |= _lettered(row['where'], row['options'])
  return row


FORMS: dict[str, Callable[..., Iterator[Row]]] = {
  'tsv': tsv,
  'csv': comma_separated,
  'jsonl': json_lines,
  'exported': exported,
  'race': race,
  'mctest': mctest,
}


def need(
  row: Row,
  columns: tuple[str, ...],
  wanted: str = 'a file of the official distribution',
) -> None:
  """Raises a UserError unless a row has the columns; it offers the nearest.

  `wanted` is what to give instead.
  """
  for column in columns:
    if column not in row:
      there = [name for name in row if name not in ('where', 'line')]
      shown = ', '.join(repr(name[:40]) for name in there[:12])
      raise UserError(
        f'{row["where"]}: no column {column!r}; there are {shown or "none"}.'
        f'{nearest(column, there)} Give {wanted}'
      )


def _place(path: Path, number: int) -> Row:
  """Returns what a row says about where it was."""
  return {'where': f'{path}: line {number}', 'line': str(number)}


def _lines(path: Path) -> Iterator[tuple[int, str]]:
  """Yields number and text of each line that is not empty, without line end and BOM.

  A file whose name ends in .gz is unpacked.
  """
  number = 0
  unpacked = gzip.open if path.suffix == '.gz' else open
  try:
    with unpacked(path, 'rb') as stream:
      for number, line in lines_of(stream, path):
        text = line.decode('utf-8').removesuffix('\n').removesuffix('\r')
        text = text.removeprefix('\ufeff') if number == 1 else text
        if text:
          yield number, text
  except UnicodeDecodeError as e:
    raise UserError(
      f'{path}: line {number}, byte {e.start}: not UTF-8 (0x{e.object[e.start]:02x}, '
      f'{e.reason}); convert the file'
    ) from e
  except (EOFError, zlib.error, gzip.BadGzipFile) as e:
    raise UserError(f'{path}: damaged or truncated ({brief(e)}); fetch it again') from e
  except OSError as e:
    raise UserError(f'{path}: can not be read: {e.strerror or e}') from e


def filled(row: Row, column: str) -> str:
  """Returns the text of a cell, without the spaces around it.

  Raises:
    UserError: the cell is empty, or no text.
  """
  text, where = row[column], row['where']
  if not isinstance(text, str):
    raise UserError(f'{where}: {column!r} is {type(text).__name__}, not text; mend it')
  if not text.strip():
    raise UserError(f'{where}: {column!r} is empty; fill it, or take the example out')
  return encodable(text.strip())
