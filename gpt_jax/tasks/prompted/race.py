"""RACE (Lai et al. 2017) and MCTest (Richardson et al. 2013): exams about a text.

The other questions about it come first, with their answers. MCTest is not in GPT-3; it
is asked as RACE.
"""

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from gpt_jax.tasks import prompted_files, readers
from gpt_jax.tasks.prompted_files import text
from gpt_jax.tasks.prompts import PromptedTask, Question
from gpt_jax.tasks.readers import Row

_LETTERS = 'ABCD'


def _rows(path: Path, form: str, passage: str) -> Iterator[Row]:
  """Yields the questions, each with those of its passage."""
  found = readers.FORMS[form](path)
  for article, group in itertools.groupby(found, key=lambda row: row[passage]):
    together = list(group)
    for row in together:
      others = [other for other in together if other is not row]
      yield row | {'article': article, 'others': others}


def _right(row: Row) -> int:
  readers.need(row, ('answer',))
  return prompted_files.choice(row, 'answer', *_LETTERS)


def _question(row: Row) -> Question:
  solved = ''.join(
    f'Q: {text(other, "question")}\nA: {text(other, _LETTERS[_right(other)])}\n\n'
    for other in row['others']
  )
  article = text(row, 'article')
  return Question(
    f'Article:\n{article}\n\n{solved}Q: {text(row, "question")}\nA:',
    tuple(f' {text(row, letter)}' for letter in _LETTERS),
    (_right(row),),
    group=article,
  )


def _task(name: str, names: dict, home: str, form: str, passage: str, **more):
  return PromptedTask(
    name,
    'choices',
    'unconditional',
    ('accuracy',),
    {split: (file,) for split, file in names.items()},
    home,
    partial(_rows, form=form, passage=passage),
    ('question', *_LETTERS),
    _question,
    unconditional='A:',
    **more,
  )


RACE_MIDDLE, RACE_HIGH = (
  _task(
    f'race_{level}',
    {split: f'{split}/{level}' for split in ('train', 'dev', 'test')},
    f'cs.cmu.edu/~glai1/data/race: RACE/test/{level}/*.txt with article, questions, '
    'options, answers',
    'race',
    'article',
    folder='RACE',
    split='test',
    shots=10,
  )
  for level in ('middle', 'high')
)
MCTEST = _task(
  'mctest',
  {split: f'mc500.{split}.tsv' for split in ('train', 'dev', 'test')},
  'github.com/mcobzarenco/mctest: mc500.test.tsv and mc500.test.ans',
  'mctest',
  'story',
  split='test',
)
