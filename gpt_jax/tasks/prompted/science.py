"""ARC (Clark et al. 2018), OpenBookQA (Mihaylov et al. 2018), SciQ (Welbl et al. 2017).

SciQ is in neither paper: it is asked as ARC, after its support where it has one.
"""

from functools import partial

from gpt_jax.config import UserError
from gpt_jax.files import shown
from gpt_jax.tasks import prompted_files
from gpt_jax.tasks.prompted_files import text
from gpt_jax.tasks.prompts import PromptedTask, Question
from gpt_jax.tasks.readers import Row


def _question(row: Row, form: str) -> Question:
  where, stem, choices = row['where'], row['question'], row.get('choices')
  if isinstance(stem, dict):  # as published; exports of the hub are flat
    choices = prompted_files.part(stem, where, 'choices')
    stem = prompted_files.part(stem, where, 'stem')
  if isinstance(choices, list):
    columns = {
      k: [prompted_files.part(c, where, k) for c in choices] for k in ('text', 'label')
    }
  else:
    columns = {k: prompted_files.part(choices, where, k) for k in ('text', 'label')}
  if row['answerKey'] not in columns['label']:
    raise UserError(
      f'{where}: answerKey {shown(row["answerKey"])} is none of '
      f'{shown(columns["label"])}; mend it'
    )
  return Question(
    form.format(text(row | {'question': stem}, 'question')),
    tuple(f' {each}' for each in prompted_files.texts(row | columns, 'text')),
    (columns['label'].index(row['answerKey']),),
  )


def _sciq(row: Row) -> Question:
  support = f'{text(row, "support")}\n' if row['support'] else ''
  columns = 'distractor1', 'distractor2', 'distractor3', 'correct_answer'
  return Question(
    f'{support}Question: {text(row, "question")}\nAnswer:',
    tuple(f' {text(row, column)}' for column in columns),
    (3,),
  )


_ASKED = 'Question: {}\nAnswer:'
_ARC = 'ai2-public-datasets.s3.amazonaws.com/arc/ARC-V1-Feb2018.zip: {} with question'


def _arc(name: str, part: str) -> PromptedTask:
  return PromptedTask(
    name,
    'choices',
    'unconditional',
    ('accuracy',),
    prompted_files.hub(f'ARC-{part}-Dev', f'ARC-{part}-Train', f'ARC-{part}-Test'),
    f'{_ARC.format(f"ARC-{part}-Test.jsonl")}: stem, choices; answerKey',
    prompted_files.table,
    ('question', 'answerKey'),
    partial(_question, form=_ASKED),
    split='test',
    shots=50,
  )


ARC_EASY = _arc('arc_easy', 'Easy')
ARC_CHALLENGE = _arc('arc_challenge', 'Challenge')
OPENBOOKQA = PromptedTask(
  'openbookqa',
  'choices',
  'unconditional',
  ('accuracy',),
  prompted_files.hub(),
  'allenai.org/data/open-book-qa: Main/test.jsonl with question: stem, choices; '
  'answerKey',
  prompted_files.table,
  ('question|question_stem', 'answerKey'),
  partial(_question, form='{}'),
  split='test',
  shots=100,
)
SCIQ = PromptedTask(
  'sciq',
  'choices',
  'unconditional',
  ('accuracy',),
  prompted_files.hub('valid'),
  'allenai.org/data/sciq, as .jsonl: question, distractor1 to 3, correct_answer, '
  'support',
  prompted_files.table,
  ('question', 'distractor1', 'distractor2', 'distractor3', 'correct_answer')
  + ('support',),
  _sciq,
  split='test',
)
