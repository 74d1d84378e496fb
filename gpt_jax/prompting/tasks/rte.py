"""RTE (Dagan et al. 2006 and later), as in GLUE and SuperGLUE: does it follow?"""

from gpt_jax.data.rows import Row
from gpt_jax.prompting import files
from gpt_jax.prompting.files import text
from gpt_jax.prompting.question import PromptedTask, Question


def _question(row: Row) -> Question:
  asked = f'question: {text(row, "hypothesis")} True or False?'
  return Question(
    f'{text(row, "premise")}\n{asked}\nanswer:',
    (' True', ' False'),
    (files.choice(row, 'label', 'entailment|0', 'not_entailment|1'),),
  )


RTE = PromptedTask(
  'rte',
  'choices',
  'per_token',
  ('accuracy',),
  {
    'train': ('train.jsonl', 'train.tsv'),
    'dev': ('val.jsonl', 'validation.jsonl', 'dev.tsv'),
  },
  "super.gluebenchmark.com/tasks: val.jsonl with premise, hypothesis, label; or GLUE's "
  'dev.tsv with sentence1, sentence2, label',
  files.table,
  ('premise|sentence1', 'hypothesis|sentence2', 'label'),
  _question,
  shots=32,
)
