"""GPT-3's arithmetic and word scrambling, of the files that OpenAI released.

Context and completion are the files' own, with their line breaks, so that examples need
no separator. Six digits and the sum of digits are in the release, not in the paper.
"""

from gpt_jax.tasks import prompted_files
from gpt_jax.tasks.prompted_files import exact
from gpt_jax.tasks.prompts import PromptedTask, Question
from gpt_jax.tasks.readers import Row

_SCRAMBLED = 'Please unscramble the letters into a word, and write that word:'


def _question(row: Row) -> Question:
  return Question(exact(row, 'context'), (exact(row, 'completion'),), (0,))


def _task(name: str, shots: int, header: str) -> PromptedTask:
  return PromptedTask(
    name,
    'free',
    'beam',
    ('exact',),
    {'test': (f'{name}.jsonl',)},
    f'github.com/openai/gpt-3/tree/master/data: {name}.jsonl(.gz) with context, '
    'completion',
    prompted_files.table,
    ('context', 'completion'),
    _question,
    folder='gpt3_synthetic',
    split='test',
    examples='itself',
    shots=shots,
    header=header,
    separator='',
    limit=16,
  )


ARITHMETIC = tuple(
  _task(name, 50, '')
  for name in (
    *(f'{n}_digit_addition' for n in 'two three four five six'.split()),
    *(f'{n}_digit_subtraction' for n in 'two three four five six'.split()),
    'two_digit_multiplication',
    'single_digit_three_ops',
    'sum_of_digits',
  )
)
SCRAMBLES = tuple(
  _task(name, 100, _SCRAMBLED)
  for name in (
    'cycle_letters_in_word',
    'mid_word_1_anagrams',
    'mid_word_2_anagrams',
    'random_insertion_in_word',
    'reversed_words',
  )
)
