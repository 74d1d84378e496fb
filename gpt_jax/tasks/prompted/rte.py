"""RTE (Dagan et al. 2006 and later), as in GLUE and SuperGLUE: does it follow?"""

from gpt_jax.tasks import prompted_files
from gpt_jax.tasks.prompted_files import text
from gpt_jax.tasks.prompts import PromptedTask, Question
from gpt_jax.tasks.readers import Row


def _question(row: Row) -> Question:
  asked = f'question: {text(row, "hypothesis")} True or False?'
  return Question(
    f'{text(row, "premise")}\n{asked}\nanswer:',
    (' True', ' False'),
    (prompted_files.choice(row, 'label', 'entailment|0', 'not_entailment|1'),),
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
  prompted_files.table,
  ('premise|sentence1', 'hypothesis|sentence2', 'label'),
  _question,
  shots=32,
)
