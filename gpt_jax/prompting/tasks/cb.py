"""CommitmentBank (de Marneffe et al. 2019), as in SuperGLUE: is the speaker sure?"""

from gpt_jax.data.rows import Row
from gpt_jax.prompting import files
from gpt_jax.prompting.files import text
from gpt_jax.prompting.question import PromptedTask, Question


def _question(row: Row) -> Question:
  asked = f'question: {text(row, "hypothesis")}. true, false, or neither?'
  return Question(
    f'{text(row, "premise")}\n{asked}\nanswer:',
    (' true', ' false', ' neither'),
    (files.choice(row, 'label', 'entailment|0', 'contradiction|1', 'neutral|2'),),
  )


CB = PromptedTask(
  'cb',
  'choices',
  'per_token',
  ('accuracy', 'macro_f1'),
  files.hub('val'),
  'super.gluebenchmark.com/tasks: val.jsonl with premise, hypothesis, label',
  files.table,
  ('premise', 'hypothesis', 'label'),
  _question,
  shots=32,
)
