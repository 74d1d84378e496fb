"""Winograd schemas of SuperGLUE (Wang et al. 2019): the model names the noun.

The files ask whether a pronoun refers to a noun. Where it does not they do not say to
which it refers, so that such a row is scored (the model must not say this noun) but is
no example of others.
"""

from gpt_jax.config import UserError
from gpt_jax.files import shown
from gpt_jax.tasks import prompted_files, readers
from gpt_jax.tasks.prompted_files import text
from gpt_jax.tasks.prompts import PromptedTask, Question
from gpt_jax.tasks.readers import Row

_HEADER = (
  'Final Exam with Answer Key\nInstructions: Please carefully read the following '
  'passages. For each passage, you must identify which noun the pronoun marked in '
  '*bold* refers to.\n=====\n'
)


def _question(row: Row) -> Question:
  target = row
  if 'target' in row:  # as published; exports of the hub are flat
    prompted_files.part(row, row['where'], 'target', 'span2_text')
    target = row['target'] | {'where': row['where']}
  readers.need(target, ('span1_text', 'span2_text', 'span2_index'))
  pronoun = text(target, 'span2_text')
  passage = _marked(row, pronoun, target['span2_index'])
  asked = f'In the passage above, what does the pronoun "*{pronoun}*" refer to?'
  right = prompted_files.choice(row, 'label', 'false|0', 'true|1')
  return Question(
    f'Passage: {passage}\nQuestion: {asked}\nAnswer:',
    (f' {text(target, "span1_text")}',),
    (0,) if right else (),
  )


def _marked(row: Row, pronoun: str, index: int) -> str:
  """Returns the passage, the pronoun nearest to a word's place between asterisks."""
  words = text(row, 'text').split()
  places = [i for i, word in enumerate(words) if word.strip('.,;:!?"\'') == pronoun]
  if not places or not isinstance(index, int):
    raise UserError(
      f'{row["where"]}: no word {shown(pronoun)} at span2_index {shown(index)} of the '
      'text; mend it'
    )
  at = min(places, key=lambda i: abs(i - index))  # some files count one word too many
  words[at] = words[at].replace(pronoun, f'*{pronoun}*', 1)
  return ' '.join(words)


WSC = PromptedTask(
  'wsc',
  'free',
  'beam',
  ('coreference',),
  prompted_files.hub('val'),
  'super.gluebenchmark.com/tasks: val.jsonl with text, target, label',
  prompted_files.table,
  ('text', 'label'),
  _question,
  fixed=True,
  shots=32,
  header=_HEADER,
)
