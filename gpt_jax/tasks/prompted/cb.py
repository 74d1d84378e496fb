"""CommitmentBank (de Marneffe et al. 2019), as in SuperGLUE: is the speaker sure?"""

from gpt_jax.tasks import prompted_files
from gpt_jax.tasks.prompted_files import text
from gpt_jax.tasks.prompts import PromptedTask, Question
from gpt_jax.tasks.readers import Row


def _question(row: Row) -> Question:
  asked = f'question: {text(row, "hypothesis")}. true, false, or neither?'
  return Question(
    f'{text(row, "premise")}\n{asked}\nanswer:',
    (' true', ' false', ' neither'),
    (
      prompted_files.choice(
        row, 'label', 'entailment|0', 'contradiction|1', 'neutral|2'
      ),
    ),
  )


CB = PromptedTask(
  'cb',
  'choices',
  'per_token',
  ('accuracy', 'macro_f1'),
  prompted_files.hub('val'),
  'super.gluebenchmark.com/tasks: val.jsonl with premise, hypothesis, label',
  prompted_files.table,
  ('premise', 'hypothesis', 'label'),
  _question,
  shots=32,
)
