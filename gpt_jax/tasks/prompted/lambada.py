"""LAMBADA (Paperno et al. 2016): the last word of a passage.

Without examples the model goes on with the passage, with examples it fills in a blank
of five underscores (GPT-3, figure G.21; transcriptions count four to six).
Which tokens of the word count, and whether stop words do, is a matter of scoring:
OpenAI scored the last token, others the whole word.
"""

from collections.abc import Iterator
from pathlib import Path

from gpt_jax.config import UserError
from gpt_jax.tasks import prompted_files, readers
from gpt_jax.tasks.prompted_files import exact
from gpt_jax.tasks.prompts import PromptedTask, Question
from gpt_jax.tasks.readers import Row

# What GPT-2 calls stop words and does not list: words that only hold a sentence
# together. Differs: reproductions took NLTK's list, which has contractions too.
STOP_WORDS = frozenset(
  'a an the this that these those such some any no every each all both either neither '
  'i me my mine myself you your yours yourself yourselves he him his himself she her '
  'hers herself it its itself we us our ours ourselves they them their theirs '
  'themselves who whom whose which what when where why how am is are was were be been '
  'being have has had having do does did doing done will would shall should can could '
  'may might must and but or nor if because as until while than then though although '
  'of at by for with about against between among into through during before after '
  'above below to from up down in out on off over under again further once here there '
  'more most other few own same so too very not only just now'.split()
)


def _rows(path: Path) -> Iterator[Row]:
  return readers.lines(path) if '.txt' in path.suffixes else prompted_files.table(path)


def _question(row: Row) -> Question:
  before, _, word = exact(row, 'text').rstrip().rpartition(' ')
  if not before.strip():
    raise UserError(f'{row["where"]}: a passage of one word; it takes two')
  kept = before.rstrip(' ')  # more blanks than one belong to the word
  answer = f'{before[len(kept) :]} {word}'
  return Question(f'{kept} _____. ->', (answer,), (0,), zero_shot=kept)


LAMBADA = PromptedTask(
  'lambada',
  'last_word',
  'last_word',
  ('accuracy', 'perplexity'),
  {
    'dev': ('lambada_development.jsonl', 'lambada_development_plain_text.txt'),
    'test': ('lambada_test.jsonl', 'lambada_test_plain_text.txt'),
  },
  "OpenAI's lambada_test.jsonl with text (openaipublic.blob.core.windows.net/gpt-2/data"
  '); development: zenodo.org/records/2630551, lambada_development_plain_text.txt',
  _rows,
  ('text',),
  _question,
  split='test',
  examples='dev',
  shots=15,
  header='Fill in blank:\n\n',
)
