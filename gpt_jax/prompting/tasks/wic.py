"""Words in context (Pilehvar & Camacho-Collados 2019), as in SuperGLUE."""

from gpt_jax.data.rows import Row
from gpt_jax.prompting import files
from gpt_jax.prompting.files import text
from gpt_jax.prompting.question import PromptedTask, Question


def _question(row: Row) -> Question:
  asked = (
    f"question: Is the word '{text(row, 'word')}' used in the same way in the two "
    'sentences above?'
  )
  return Question(
    f'{text(row, "sentence1")}\n{text(row, "sentence2")}\n{asked}\nanswer:',
    (' yes', ' no'),
    (files.choice(row, 'label', 'true|1', 'false|0'),),
  )


WIC = PromptedTask(
  'wic',
  'choices',
  'per_token',
  ('accuracy',),
  files.hub('val'),
  'super.gluebenchmark.com/tasks: val.jsonl with word, sentence1, sentence2, label',
  files.table,
  ('word', 'sentence1', 'sentence2', 'label'),
  _question,
  shots=32,
)
