"""COPA (Roemmele et al. 2011), as in SuperGLUE: which is the cause, or the effect?"""

from gpt_jax.tasks import prompted_files
from gpt_jax.tasks.prompted_files import text
from gpt_jax.tasks.prompts import PromptedTask, Question
from gpt_jax.tasks.readers import Row

_CONNECTORS = {'cause': 'because', 'effect': 'therefore'}


def _question(row: Row) -> Question:
  kind = list(_CONNECTORS)[prompted_files.choice(row, 'question', *_CONNECTORS)]
  choices = text(row, 'choice1'), text(row, 'choice2')
  return Question(
    f'{text(row, "premise").removesuffix(".")} {_CONNECTORS[kind]}',
    tuple(f' {_going_on(each)}' for each in choices),
    (prompted_files.choice(row, 'label', '0', '1'),),
  )


def _going_on(sentence: str) -> str:
  """Returns a sentence as the end of another."""
  if sentence.partition(' ')[0] in ('I', "I'm", "I'd", "I've"):
    return sentence
  return f'{sentence[0].lower()}{sentence[1:]}'


COPA = PromptedTask(
  'copa',
  'choices',
  'per_token',
  ('accuracy',),
  prompted_files.hub('val'),
  'super.gluebenchmark.com/tasks: val.jsonl with premise, choice1, choice2, question',
  prompted_files.table,
  ('premise', 'choice1', 'choice2', 'question', 'label'),
  _question,
  shots=32,
  separator='\n',
)
