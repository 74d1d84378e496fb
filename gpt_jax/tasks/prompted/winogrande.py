"""Winogrande (Sakaguchi et al. 2020): which noun fits the blank?"""

from gpt_jax.config import UserError
from gpt_jax.tasks import prompted_files
from gpt_jax.tasks.prompted_files import text
from gpt_jax.tasks.prompts import PromptedTask, Question
from gpt_jax.tasks.readers import Row


def _question(row: Row) -> Question:
  before, blank, after = text(row, 'sentence').partition('_')
  if not blank or not after:
    raise UserError(f'{row["where"]}: the sentence has no _ with text behind; mend it')
  space = ' ' if before.endswith(' ') else ''
  return Question(
    before.rstrip(),
    tuple(f'{space}{text(row, column)}' for column in ('option1', 'option2')),
    (prompted_files.choice(row, 'answer', '1', '2'),),
    completion=after,
    id=str(row.get('qID', '')),
  )


WINOGRANDE = PromptedTask(
  'winogrande',
  'partial',
  'partial',
  ('accuracy',),
  prompted_files.hub(train='train_xl'),
  'winogrande.allenai.org: dev.jsonl with sentence, option1, option2, answer',
  prompted_files.table,
  ('sentence', 'option1', 'option2', 'answer'),
  _question,
  shots=50,
)
