"""Story Cloze (Mostafazadeh et al. 2016): which ending is right?"""

from gpt_jax.data.rows import Row
from gpt_jax.prompting import files
from gpt_jax.prompting.files import text
from gpt_jax.prompting.question import PromptedTask, Question

_SENTENCES = tuple(f'InputSentence{i}' for i in (1, 2, 3, 4))
_ENDINGS = 'RandomFifthSentenceQuiz1', 'RandomFifthSentenceQuiz2'


def _question(row: Row) -> Question:
  return Question(
    ' '.join(text(row, column) for column in _SENTENCES),
    tuple(f' {text(row, column)}' for column in _ENDINGS),
    (files.choice(row, 'AnswerRightEnding', '1', '2'),),
    id=text(row, 'InputStoryid'),
  )


STORYCLOZE = PromptedTask(
  'storycloze',
  'choices',
  'per_token',
  ('accuracy',),
  {
    'dev': (
      'cloze_test_val__spring2016.csv',
      'cloze_test_val__spring2016 - cloze_test_ALL_val.csv',
    ),
    'test': (
      'cloze_test_test__spring2016.csv',
      'cloze_test_test__spring2016 - cloze_test_ALL_test.csv',
    ),
  },
  'cs.rochester.edu/nlp/rocstories (on request): the .csv files of spring 2016',
  files.table,
  ('InputStoryid', *_SENTENCES, *_ENDINGS, 'AnswerRightEnding'),
  _question,
  split='test',
  examples='dev',
  shots=70,
)
