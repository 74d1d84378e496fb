"""BoolQ (Clark et al. 2019): yes or no?"""

from gpt_jax.tasks import prompted_files
from gpt_jax.tasks.prompted_files import text
from gpt_jax.tasks.prompts import PromptedTask, Question
from gpt_jax.tasks.readers import Row


def _question(row: Row) -> Question:
  # SuperGLUE's passages begin with their title; those of the first release do not.
  title = f'{text(row, "title")} -- ' if row.get('title') else ''
  asked = f'question: {text(row, "question").removesuffix("?")}?'
  return Question(
    f'{title}{text(row, "passage")}\n{asked}\nanswer:',
    (' yes', ' no'),
    (prompted_files.choice(row, 'label', 'true|1', 'false|0'),),
  )


BOOLQ = PromptedTask(
  'boolq',
  'choices',
  'per_token',
  ('accuracy',),
  {
    'train': ('train.jsonl',),
    'dev': ('val.jsonl', 'validation.jsonl', 'dev.jsonl'),
  },
  'super.gluebenchmark.com/tasks: val.jsonl with passage, question, label; or '
  "google-research-datasets/boolean-questions' dev.jsonl with title, answer",
  prompted_files.table,
  ('passage', 'question', 'label|answer'),
  _question,
  shots=32,
)
