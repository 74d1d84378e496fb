"""Examples of labelled tasks, from the files that their authors publish, or the hub.

The tasks are in gpt_jax/tasks/labelled_table.py, their file formats in readers.py.
"""

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gpt_jax.config import UserError, nearest
from gpt_jax.files import shown
from gpt_jax.tasks import readers
from gpt_jax.tasks.labelled_table import TASKS, Release, Task
from gpt_jax.tasks.readers import Row


class Example(NamedTuple):
  """One example of a task.

  Attributes:
    texts: in the order that the model reads them, without spaces around them.
    choices: the answers of a multiple choice.
    label: the class, the right choice (both from 0), a score, or None where a test
      file has no labels.
    id: in the file; where it has none, the line or row.
  """

  texts: tuple[str, ...]
  choices: tuple[str, ...] = ()
  label: int | float | None = None
  id: str = ''


def read(
  task_name: str,
  data: str | Path,
  split: str,
  tell: Callable[[str], None] | None = None,
) -> list[Example]:
  """Returns the examples of a split, in the order of the file.

  Args:
    task_name: one of `TASKS`.
    data: a folder with the files of the official distribution, or of the hub's data
      set as JSON lines (train.jsonl, validation.jsonl); or the split's file, under any
      name; or hf:NAME, hf:NAME:CONFIG or hf:FOLDER, a Hugging Face data set
      with the columns of `Task.hub` (see `readers.hub`).
    split: 'train', 'dev' or 'test'; 'dev_mismatched' and 'test_mismatched' of mnli;
      'dev_middle', 'dev_high', 'test_middle' and 'test_high' of race's files. Story
      Cloze's train and dev are GPT-1's, in the order of its permutation.
    tell: called with a line about rows left out because they are known to be unusable:
      SNLI's without a gold label, QQP's with an empty question.

  Raises:
    UserError: there is no such task, split, file or data set; the file is another
      task's; a column is missing or too many; a text is empty; a label is none of the
      task's; a training split lacks a class; `datasets` is not installed.
  """
  task = named(task_name)
  if str(data).startswith('hf:'):
    path, release = str(data), _on_hub(task, split)
    rows = _hub_rows(task, release, path, split)
  else:
    path, release = _find(task, Path(data).expanduser(), split)
    _check_owner(task, release, path, split)
    rows = _rows(release, path, split)
  examples, left_out = [], 0
  for row in rows:
    if _unusable(release, row):
      left_out += 1
    else:
      examples.append(_example(task, release, row))
  if left_out and tell:
    column, value = release.unusable
    tell(f'{path}: {left_out:,} examples left out, whose {column} is {value!r}')
  if release.held_out and split in ('train', 'dev'):
    examples = _part(examples, path, split, *release.held_out)
  if not examples:
    raise UserError(f'{path}: no examples; fetch it again')
  if split == 'train' and task.kind != 'multiple_choice':
    seen = {example.label for example in examples}
    for at, name in enumerate(release.labels or task.labels):
      if at not in seen:
        raise UserError(
          f'{path}: no example of class {name!r} of {task}; train on all classes'
        )
  return examples


def named(task_name: str) -> Task:
  """Returns the task of a name; raises UserError where there is none."""
  if task_name not in TASKS:
    raise UserError(
      f'task {task_name!r} must be one of {", ".join(TASKS)}.'
      f'{nearest(task_name, TASKS)}'
    )
  return TASKS[task_name]


def drawn(examples: list[Example], number: int) -> list[Example]:
  """Returns so many of the examples in their order, always the same; 0 means all."""
  if not number or number >= len(examples):
    return examples
  chosen = np.random.default_rng(0).permutation(len(examples))[:number]
  return [examples[i] for i in np.sort(chosen)]


def _on_hub(task: Task, split: str) -> Release:
  """Returns the task's release on the hub, if that has the split."""
  if task.hub is None:
    raise UserError(
      f'{task} is not read from hf:, only from the files of its official '
      'distribution; give their folder'
    )
  return _with_split(task, (task.hub,), split)[0]


def _with_split(task: Task, releases: tuple[Release, ...], split: str) -> list[Release]:
  """Returns the releases that have a split; raises UserError if none has."""
  fitting = [release for release in releases if split in release.files]
  if not fitting:
    there = dict.fromkeys(s for release in releases for s in release.files)
    raise UserError(
      f'{task} has no split {split!r}, only {", ".join(there)}.{nearest(split, there)}'
    )
  return fitting


def _find(task: Task, where: Path, split: str) -> tuple[Path, Release]:
  """Returns the file (RACE: the folder) of a split and its release."""
  releases = _with_split(task, task.releases, split)
  if where.is_file():
    fitting = [release for release in releases if _fits(task, release, where, split)]
    alike = [
      release
      for release in releases
      if any(Path(n).suffix == where.suffix for n in release.files[split])
    ]
    return where, (fitting + alike + releases)[0]
  looked_for = []
  for release in releases:
    for name in release.files[split]:
      if (where / name).exists():
        return where / name, release
      looked_for.append(name)
  raise UserError(
    f'{where} (from {os.getcwd()}): no {split} split of {task}; looked for '
    f'{", ".join(looked_for)}; give the folder that holds one of them, or the file'
  )


def _check_owner(task: Task, release: Release, path: Path, split: str) -> None:
  """Raises a UserError if a file looks like another task's.

  It does if its first usable row can be read as that task's, and either not as ours, or
  that task needs all of our columns and more.
  """
  ours = set(release.columns(split)) if _fits(task, release, path, split) else set()
  owners = [
    (other.name, set(another.columns(split)))
    for other in TASKS.values()
    for another in (other.releases if other is not task else ())
    if set(another.columns(split)) > ours and _fits(other, another, path, split)
  ]
  names = [n for n, own in owners if not any(more > own for _, more in owners)]
  if names:
    raise UserError(
      f'{path}: this is a file of {" or ".join(names)}, not of {task}; give its own, '
      f'or the task {" or ".join(names)}'
    )


def _fits(task: Task, release: Release, path: Path, split: str) -> bool:
  """Returns whether the first usable row of a file can be read as a task's example."""
  usable = (row for row in _rows(release, path, split) if not _unusable(release, row))
  try:
    _example(task, release, next(usable))
  except (UserError, StopIteration):
    return False
  return True


def _rows(release: Release, path: Path, split: str) -> Iterator[Row]:
  """Yields the rows of a file, which have the columns of the release."""
  options = (release.names, release.extra) if release.names else ()
  if release.form == 'exported':
    options = release.label, release.labels
  for row in readers.FORMS[release.form](path, *options):
    row = _without_mark(release, row, split)
    readers.need(row, release.columns(split))
    yield row


def _without_mark(release: Release, row: Row, split: str) -> Row:
  """Returns a row without what stands in the place of a label in a test split."""
  marked = release.no_label and row.get(release.label) == release.no_label
  if marked and split.startswith('test'):
    del row[release.label]
  return row


def _hub_rows(task: Task, release: Release, source: str, split: str) -> Iterator[Row]:
  """Yields the rows of a data set, which have the columns of the release."""
  (name,), label, wanted = release.files[split], release.label, f'one as {release.home}'
  for row in readers.hub(source, name, label, release.labels or task.labels, wanted):
    row = _without_mark(release, row, split)
    readers.need(row, release.columns(split), wanted)
    yield row


def _unusable(release: Release, row: Row) -> bool:
  """Returns whether a row is known to be unusable."""
  column, value = release.unusable
  return bool(column) and row.get(column) == value


def _example(task: Task, release: Release, row: Row) -> Example:
  """Returns a row as an example."""
  texts = tuple(readers.filled(row, column) for column in release.texts)
  return Example(
    (' '.join(texts),) if release.joined else texts,
    tuple(readers.filled(row, column) for column in release.choices),
    _label(task, release, row) if release.label in row else None,
    str(row.get(release.id, row['line'])),
  )


def _label(task: Task, release: Release, row: Row) -> int | float:
  """Returns the label of a row: a class, a choice or a score."""
  text = readers.filled(row, release.label)
  if task.scores:
    low, high = task.scores
    try:
      value = float(text)
    except ValueError:
      value = math.nan
    if not low <= value <= high:
      raise UserError(
        f'{row["where"]}: {release.label} {shown(text)} is no number from {low:g} to '
        f'{high:g} ({task}); mend it'
      )
    return value
  labels = release.labels or task.labels
  if text not in labels:
    raise UserError(
      f'{row["where"]}: {release.label} {shown(text)} is none of the labels of {task}: '
      f'{", ".join(labels)}; mend it, or give the file of that task'
    )
  return labels.index(text)


def _part(
  examples: list[Example], path: Path, split: str, held_out: int, seed: int
) -> list[Example]:
  """Returns the train or dev part of a file that both splits share."""
  if len(examples) <= held_out:
    raise UserError(
      f'{path}: {len(examples)} examples, of which {held_out} are held out for dev: '
      'none is left to train on; give the whole file'
    )
  order = np.random.RandomState(seed).permutation(len(examples))
  part = order[:held_out] if split == 'dev' else order[held_out:]
  return [examples[i] for i in part]
