"""Words in context (Pilehvar & Camacho-Collados 2019), as in SuperGLUE."""

from gpt_jax.tasks import prompted_files
from gpt_jax.tasks.prompted_files import text
from gpt_jax.tasks.prompts import PromptedTask, Question
from gpt_jax.tasks.readers import Row


def _question(row: Row) -> Question:
  asked = (
    f"question: Is the word '{text(row, 'word')}' used in the same way in the two "
    'sentences above?'
  )
  return Question(
    f'{text(row, "sentence1")}\n{text(row, "sentence2")}\n{asked}\nanswer:',
    (' yes', ' no'),
    (prompted_files.choice(row, 'label', 'true|1', 'false|0'),),
  )


WIC = PromptedTask(
  'wic',
  'choices',
  'per_token',
  ('accuracy',),
  prompted_files.hub('val'),
  'super.gluebenchmark.com/tasks: val.jsonl with word, sentence1, sentence2, label',
  prompted_files.table,
  ('word', 'sentence1', 'sentence2', 'label'),
  _question,
  shots=32,
)
