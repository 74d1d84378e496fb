"""DROP (Dua et al. 2019): numbers, dates and spans of a passage."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt_jax import files
from gpt_jax.config import UserError
from gpt_jax.tasks import prompted_files
from gpt_jax.tasks.prompted_files import part, text
from gpt_jax.tasks.prompts import PromptedTask, Question
from gpt_jax.tasks.readers import Row


def _rows(path: Path) -> Iterator[Row]:
  """Yields the questions of all passages."""
  for key, passage in files.read_json(path).items():
    where = f'{path}: {key:.80}'
    for at, question in enumerate(part(passage, where, 'qa_pairs', kind=list)):
      answers = [part(question, where, 'answer')]
      if 'validated_answers' in question:
        answers += part(question, where, 'validated_answers', kind=list)
      yield {
        'passage': part(passage, where, 'passage'),
        'question': part(question, where, 'question'),
        'answers': [words for each in answers if (words := _written(each, where))],
        'group': key,
        'id': question.get('query_id', f'{key}:{at}'),
        'where': f'{where}: question {at}',
        'line': f'{key}:{at}',
      }


def _written(answer: Any, where: str) -> str:
  """Returns an answer in words: its number, its spans, or its day, month and year."""
  mend = 'give the official file'
  answer = files.of_kind(answer, dict, f'{where}: answer', mend)
  date = files.of_kind(answer.get('date') or {}, dict, f'{where}: date', mend)
  spans = files.of_kind(answer.get('spans') or [], list, f'{where}: spans', mend)
  parts = [date.get(each) or '' for each in ('day', 'month', 'year')]
  for each in (*spans, *parts):
    files.of_kind(each, str, f'{where}: answer', mend)
  dated = ' '.join(filter(None, parts))
  return str(answer.get('number') or '') or ', '.join(spans) or dated


def _question(row: Row) -> Question:
  if not row['answers']:
    raise UserError(f'{row["where"]}: no answer; give a file with answers')
  answers = tuple(dict.fromkeys(prompted_files.texts(row, 'answers')))
  asked = f'Question: {text(row, "question")}\nAnswer:'
  return Question(
    f'Passage: {text(row, "passage")}\n{asked}',
    tuple(f' {answer}' for answer in answers),
    tuple(range(len(answers))),
    group=row['group'],
  )


DROP = PromptedTask(
  'drop',
  'free',
  'beam',
  ('drop_f1', 'em'),
  {'train': ('drop_dataset_train.json',), 'dev': ('drop_dataset_dev.json',)},
  'allenai.org/data/drop: drop_dataset_dev.json with passage, qa_pairs',
  _rows,
  ('passage', 'question'),
  _question,
  shots=20,
)
