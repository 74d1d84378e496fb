"""HellaSwag (Zellers et al. 2019): how does it go on?"""

import re

from gpt_jax.tasks import prompted_files, readers
from gpt_jax.tasks.prompted_files import text
from gpt_jax.tasks.prompts import PromptedTask, Question
from gpt_jax.tasks.readers import Row


def _question(row: Row) -> Question:
  if 'query' in row:  # already written as below
    context = text(row, 'query')
  else:
    readers.need(row, ('activity_label',))
    begun = str(row.get('ctx_b') or '')
    context = f'{row["ctx_a"]} {begun[:1].upper()}{begun[1:]}'
    context = f'{text(row, "activity_label")}: {_clean(context)}'
  return Question(
    context,
    tuple(f' {_clean(each)}' for each in prompted_files.texts(row, 'endings')),
    (prompted_files.choice(row, 'label', '0', '1', '2', '3'),),
  )


def _clean(words: str) -> str:
  """Returns a text without the marks of its source, wikiHow."""
  words = re.sub(r'\[.*?\]', '', words.strip().replace(' [title]', '. '))
  return re.sub(' +', ' ', words).strip()


HELLASWAG = PromptedTask(
  'hellaswag',
  'choices',
  'per_token',
  ('accuracy',),
  {
    'train': ('hellaswag_train.jsonl', 'train.jsonl'),
    'dev': ('hellaswag_val.jsonl', 'validation.jsonl', 'validation_sample.jsonl'),
  },
  'github.com/rowanz/hellaswag: hellaswag_val.jsonl with activity_label, ctx_a, ctx_b, '
  'endings, label',
  prompted_files.table,
  ('ctx_a|query', 'endings|choices', 'label|gold'),
  _question,
  shots=20,
)
