"""Questions and documents of tasks, from the files that their authors publish."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt_jax.config import UserError
from gpt_jax.files import of_kind, shown
from gpt_jax.tasks import readers
from gpt_jax.tasks.prompts import Document, PromptedTask, Question, TextSet
from gpt_jax.tasks.readers import Row
from gpt_jax.tokenizers.texts import encodable


def read(task: PromptedTask, data: str | Path, split: str = '') -> list[Question]:
  """Returns the questions of a split, in the order of the file.

  Args:
    data: a folder that holds the task's folder; or that folder; or the split's file,
      under any name.
    split: 'train', 'dev' or 'test', if `task.files` has it; '': the paper's.

  Raises:
    UserError: there is no such split or file; a column is missing; a cell is empty or
      not of the task's; there are no questions.
  """
  path = find(task, data, split or task.split)
  questions = []
  for row in task.rows(path):
    for column in task.columns:
      name, *others = column.split('|')
      there = [other for other in (name, *others) if other in row]
      readers.need(row, (there[0] if there else name,), task.home)
      row[name] = row[there[0]]
    question = task.question(row)
    questions.append(
      question._replace(id=question.id or str(row.get('id', row['line'])))
    )
  if not questions:
    raise UserError(f'{path}: no questions of {task}; fetch it again: {task.home}')
  return questions


def read_documents(
  text_set: TextSet, data: str | Path, split: str = ''
) -> list[Document]:
  """Returns the documents of a split; arguments and errors are those of `read`."""
  split = split or text_set.split
  path = find(text_set, data, split)
  documents = list(text_set.documents(path, split))
  if not any(document.text for document in documents):
    raise UserError(f'{path}: is empty; fetch it again: {text_set.home}')
  return documents


def examples(
  task: PromptedTask, data: str | Path, split: str = '', source: str = ''
) -> list[Question]:
  """Returns the examples to draw from for a split's questions.

  Args:
    data: as in `read`.
    split: of the questions; '': the paper's.
    source: 'train', 'dev', 'test' or 'itself' (the other questions); '': the paper's,
      `task.examples`.

  Raises:
    UserError: as `read`.
  """
  source = source or task.examples
  return read(task, data, split if source == 'itself' else source)


def find(task: PromptedTask | TextSet, data: str | Path, split: str) -> Path:
  """Returns the file of a split; raises UserError if there is none."""
  if split not in task.files:
    raise UserError(f'{task} has no split {split!r}, only {", ".join(task.files)}')
  data = Path(data).expanduser()
  if data.is_file():
    return data
  there = {each: _there(task, data, each) for each in task.files}
  if there[split]:
    return there[split]
  others = [each for each, path in there.items() if path]
  raise UserError(
    f'{data} (from {os.getcwd()}): no {split} split of {task}; looked for '
    f'{", ".join(task.files[split])} (or with .gz) there and in '
    f'{task.folder or task}/. '
    + (
      f'There is {" and ".join(others)}: ask for that (--split, --examples), or get '
      if others
      else 'Get '
    )
    + f'it from {task.home}'
  )


def _there(task: PromptedTask | TextSet, data: Path, split: str) -> Path | None:
  """Returns the file of a split, if there is one."""
  names = [f'{name}{end}' for name in task.files[split] for end in ('', '.gz')]
  for folder in (data / (task.folder or str(task)), data):
    for name in names:
      if (folder / name).exists():
        return folder / name
  return None


def hub(
  dev: str = 'dev', train: str = 'train', test: str = 'test', end: str = '.jsonl'
) -> dict[str, tuple[str, ...]]:
  """Returns file names by split: the authors' own, or those of exports of the hub."""
  return {
    'train': tuple(dict.fromkeys((f'{train}{end}', 'train.jsonl'))),
    'dev': tuple(dict.fromkeys((f'{dev}{end}', 'validation.jsonl'))),
    'test': tuple(dict.fromkeys((f'{test}{end}', 'test.jsonl'))),
  }


def table(path: Path) -> Iterator[Row]:
  """Yields the rows of a .jsonl, .tsv or .csv file, by its name."""
  name = path.name.removesuffix('.gz')
  form = {'.tsv': readers.tsv, '.csv': readers.comma_separated}.get(Path(name).suffix)
  return (form or readers.json_lines)(path)


def part(value: Any, where: str, *keys: str | int, kind: type | None = None) -> Any:
  """Returns value[key][key] ... of nested JSON.

  Args:
    kind: what it must be, as in `files.of_kind`.

  Raises:
    UserError: it isn't there, or is of another kind.
  """
  for key in keys:
    fits = isinstance(value, list if isinstance(key, int) else dict)
    if not fits or (key not in value if isinstance(key, str) else key >= len(value)):
      raise UserError(f'{where}: no {key!r} in {shown(value)}; give the official file')
    value = value[key]
  return of_kind(value, kind, f'{where}: {keys[-1]}', 'give the official file')


def text(row: Row, column: str) -> str:
  """Returns a cell's text, stripped, which must not be empty."""
  return readers.filled(row, column)


def exact(row: Row, column: str) -> str:
  """Returns a cell's text, unchanged, which must not be empty."""
  text(row, column)
  return encodable(row[column])


def texts(row: Row, column: str) -> tuple[str, ...]:
  """Returns a cell's list of texts, at least one; a text by itself counts as one."""
  values = row[column] if isinstance(row[column], list) else [row[column]]
  cells = [text(row | {column: each}, column) for each in values]
  if not cells:
    raise UserError(f'{row["where"]}: {column!r} is empty; fill it')
  return tuple(cells)


def choice(row: Row, column: str, *names: str) -> int:
  """Returns which of some labels a cell is, from 0.

  Args:
    column: of the label: text, a number or a truth value.
    names: how each label is written; 'a|b' is either.

  Raises:
    UserError: it is none of them.
  """
  value = str(row[column]).strip()
  for i, name in enumerate(names):
    if value.lower() in name.lower().split('|'):
      return i
  raise UserError(
    f'{row["where"]}: {column} {shown(value)} is none of {", ".join(names)}; mend it, '
    'or give a file with labels'
  )
