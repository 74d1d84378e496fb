"""DROP (Dua et al. 2019): numbers, dates and spans of a passage."""

from collections.abc import Iterator
from pathlib import Path

from gpt_jax.config import UserError
from gpt_jax.tasks import prompted_files
from gpt_jax.tasks.prompted_files import part, text
from gpt_jax.tasks.prompts import PromptedTask, Question
from gpt_jax.tasks.readers import Row


def _rows(path: Path) -> Iterator[Row]:
  """Yields the questions of all passages."""
  passages = prompted_files.whole(path)
  if not isinstance(passages, dict):
    raise UserError(f'{path}: not an object of passages; give the official file')
  for key, passage in passages.items():
    where = f'{path}: {key}'
    for at, question in enumerate(part(passage, where, 'qa_pairs')):
      answers = part(question, where, 'answer'), *question.get('validated_answers', ())
      yield {
        'passage': part(passage, where, 'passage'),
        'question': part(question, where, 'question'),
        'answers': [answer for answer in map(_written, answers) if answer],
        'group': key,
        'id': question.get('query_id', f'{key}:{at}'),
        'where': f'{where}: question {at}',
        'line': f'{key}:{at}',
      }


def _written(answer: dict) -> str:
  """Returns an answer in words: its number, its spans, or its day, month and year."""
  date = answer.get('date') or {}
  dated = ' '.join(filter(None, (date.get(k) for k in ('day', 'month', 'year'))))
  return (
    str(answer.get('number') or '') or ', '.join(answer.get('spans') or ()) or dated
  )


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
