"""PIQA (Bisk et al. 2020): which way works?"""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from gpt_jax.config import UserError
from gpt_jax.tasks import prompted_files, readers
from gpt_jax.tasks.prompted_files import text
from gpt_jax.tasks.prompts import PromptedTask, Question
from gpt_jax.tasks.readers import Row


def _rows(path: Path) -> Iterator[Row]:
  """Yields the rows, with the labels of NAME-labels.lst where that lies beside."""
  keys = path.with_name(f'{path.name.split(".")[0]}-labels.lst')
  if not keys.exists():
    yield from prompted_files.table(path)
    return
  for row, key in zip_longest(prompted_files.table(path), readers.lines(keys)):
    if row is None or key is None:
      raise UserError(f'{keys} has not as many lines as {path}; fetch both again')
    yield row | {'label': key['text']}


def _question(row: Row) -> Question:
  return Question(
    text(row, 'goal'),
    tuple(f' {text(row, column)}' for column in ('sol1', 'sol2')),
    (prompted_files.choice(row, 'label', '0', '1'),),
  )


PIQA = PromptedTask(
  'piqa',
  'choices',
  'per_token',
  ('accuracy',),
  {'train': ('train.jsonl',), 'dev': ('valid.jsonl', 'validation.jsonl')},
  'yonatanbisk.com/piqa: valid.jsonl with goal, sol1, sol2, and valid-labels.lst',
  _rows,
  ('goal', 'sol1', 'sol2', 'label'),
  _question,
  shots=50,
)
