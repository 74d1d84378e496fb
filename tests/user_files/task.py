"""A prompted task as a user wrote it before the rooms moved; kept as it is."""

from gpt_jax.data.rows import Row
from gpt_jax.prompting import files
from gpt_jax.prompting.files import text
from gpt_jax.prompting.question import PromptedTask, Question


def _question(row: Row) -> Question:
  return Question(
    context=f'Question: {text(row, "question")}\nAnswer:',
    answers=(' yes', ' no'),
    gold=(files.choice(row, 'label', 'true|1', 'false|0'),),
  )


QUIZ = PromptedTask(
  name='quiz',
  form='choices',
  rule='per_token',
  metrics=('accuracy',),
  files={'train': ('train.jsonl',), 'dev': ('dev.jsonl',)},
  home='example.org/quiz: dev.jsonl with question, label',
  rows=files.table,
  columns=('question', 'label|answer'),
  question=_question,
  shots=16,
)
