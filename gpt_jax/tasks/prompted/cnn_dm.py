"""CNN and Daily Mail (Hermann et al. 2015; Nallapati et al. 2016): what GPT-2 sums up.

100 tokens after TL;DR:, drawn from the best 2, of which the first 3 sentences count.
GPT-2 (section 3.6) does not say what parts article and TL;DR:; here a line end does.
"""

from collections.abc import Iterator
from pathlib import Path

from gpt_jax import files
from gpt_jax.config import UserError
from gpt_jax.tasks import prompted_files
from gpt_jax.tasks.prompted_files import text
from gpt_jax.tasks.prompts import PromptedTask, Question
from gpt_jax.tasks.readers import Row


def _rows(path: Path) -> Iterator[Row]:
  """Yields the articles of an export of the hub, or of a folder of .story files."""
  if not path.is_dir():
    yield from prompted_files.table(path)
    return
  for number, file in enumerate(sorted(path.glob('*.story')), 1):
    article, *highlights = files.read_text(file).split('@highlight')
    if not highlights:
      raise UserError(f'{file}: no @highlight; fetch it again')
    yield {
      'article': article,
      'highlights': '\n'.join(each.strip() for each in highlights),
      'id': file.stem,
      'where': str(file),
      'line': str(number),
    }


def _question(row: Row) -> Question:
  return Question(
    f'{text(row, "article")}\nTL;DR:', (f' {text(row, "highlights")}',), (0,)
  )


CNN_DM = PromptedTask(
  'cnn_dm',
  'free',
  'top_k_2',
  ('rouge1', 'rouge2', 'rougeL'),
  {
    'train': ('train.jsonl',),
    'dev': ('validation.jsonl',),
    'test': ('test.jsonl', 'stories'),
  },
  'hf:abisee/cnn_dailymail:3.0.0 as .jsonl with article, highlights; or '
  'cs.nyu.edu/~kcho/DMQA: a folder stories/ of .story files',
  _rows,
  ('article', 'highlights'),
  _question,
  split='test',
  stop=(),
  limit=100,
)
