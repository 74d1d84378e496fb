"""Children's Book Test (Hill et al. 2016): which word is missing in sentence 21?

GPT-2 (section 3.2) compares P(word) P(rest of the sentence | word) on the validation
set, the text de-tokenized. Its prompt is not published: here the 20 sentences and the
beginning of the 21st, joined by blanks.
"""

from collections.abc import Iterator
from pathlib import Path

from gpt_jax.config import UserError
from gpt_jax.files import shown
from gpt_jax.tasks import readers
from gpt_jax.tasks.detokenize import TREEBANK
from gpt_jax.tasks.prompts import PromptedTask, Question
from gpt_jax.tasks.readers import Row

_BLANK = 'XXXXX'


def _rows(path: Path) -> Iterator[Row]:
  """Yields the questions: 20 numbered sentences, and a 21st with the answers."""
  sentences = []
  for row in readers.lines(path):
    first, *cells = row['text'].split('\t')
    number, _, sentence = first.partition(' ')
    if number != str(len(sentences) + 1):
      raise UserError(
        f'{row["where"]}: begins with {shown(number)}, not {len(sentences) + 1}'
      )
    if not cells:
      sentences.append(sentence)
      continue
    if len(cells) < 2:
      raise UserError(f'{row["where"]}: no options behind the answer; mend it')
    answer, *_, options = cells
    yield {
      'sentences': sentences,
      'question': sentence,
      'answer': answer,
      'options': options.split('|'),
      'where': row['where'],
      'line': row['line'],
    }
    sentences = []


def _question(row: Row) -> Question:
  before, blank, after = TREEBANK.read(row['question']).partition(_BLANK)
  if not blank or row['answer'] not in row['options']:
    raise UserError(
      f'{row["where"]}: must have {_BLANK} and its answer among the options; mend it'
    )
  story = [TREEBANK.read(sentence) for sentence in row['sentences']]
  space = ' ' if before.endswith(' ') or not before else ''
  return Question(
    ' '.join([*story, before]).rstrip(),
    tuple(f'{space}{option}' for option in row['options']),
    (row['options'].index(row['answer']),),
    completion=after,
  )


def _task(name: str, kind: str) -> PromptedTask:
  return PromptedTask(
    name,
    'partial',
    'full',
    ('accuracy',),
    {
      'train': (f'cbtest_{kind}_train.txt',),
      'dev': (f'cbtest_{kind}_valid_2000ex.txt',),
      'test': (f'cbtest_{kind}_test_2500ex.txt',),
    },
    f'thespermwhale.com/jaseweston/babi/CBTest.tgz: cbtest_{kind}_valid_2000ex.txt',
    _rows,
    ('question', 'answer', 'options'),
    _question,
    folder='CBTest/data',
  )


CBT_CN = _task('cbt_cn', 'CN')
CBT_NE = _task('cbt_ne', 'NE')
