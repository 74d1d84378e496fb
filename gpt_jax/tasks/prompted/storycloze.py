"""Story Cloze (Mostafazadeh et al. 2016): which ending is right?"""

from gpt_jax.tasks import prompted_files
from gpt_jax.tasks.prompted_files import text
from gpt_jax.tasks.prompts import PromptedTask, Question
from gpt_jax.tasks.readers import Row

_SENTENCES = tuple(f'InputSentence{i}' for i in (1, 2, 3, 4))
_ENDINGS = 'RandomFifthSentenceQuiz1', 'RandomFifthSentenceQuiz2'


def _question(row: Row) -> Question:
  return Question(
    ' '.join(text(row, column) for column in _SENTENCES),
    tuple(f' {text(row, column)}' for column in _ENDINGS),
    (prompted_files.choice(row, 'AnswerRightEnding', '1', '2'),),
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
  prompted_files.table,
  ('InputStoryid', *_SENTENCES, *_ENDINGS, 'AnswerRightEnding'),
  _question,
  split='test',
  examples='dev',
  shots=70,
)
