"""SAT analogies (Turney et al. 2003): which pair is like the given one?"""

import itertools
from collections.abc import Iterator
from pathlib import Path

from gpt_jax import files
from gpt_jax.config import UserError
from gpt_jax.tasks import prompted_files
from gpt_jax.tasks.prompts import PromptedTask, Question
from gpt_jax.tasks.readers import Row


def _rows(path: Path) -> Iterator[Row]:
  """Yields the questions: blocks of a source, a stem, five pairs and a letter."""
  numbered = enumerate(files.read_text(path).splitlines(), 1)
  kept = ((n, line.strip()) for n, line in numbered if not line.startswith('#'))
  for full, group in itertools.groupby(kept, key=lambda pair: bool(pair[1])):
    if not full:
      continue
    block = list(group)
    where, lines = f'{path}: line {block[0][0]}', [line for _, line in block]
    if len(lines) != 8 or lines[-1] not in tuple('abcde'):
      raise UserError(
        f'{where}: a question has 8 lines: source, stem, five pairs and a letter; this '
        f'one has {len(lines)}'
      )
    pairs = [line.replace(':', ' ').split()[:2] for line in lines[1:-1]]
    yield {
      'pairs': pairs,
      'answer': lines[-1],
      'where': where,
      'line': str(block[0][0]),
    }


def _question(row: Row) -> Question:
  stem, *choices = (' is to '.join(pair) for pair in row['pairs'])
  return Question(
    f'{stem} as',
    tuple(f' {each}' for each in choices),
    (prompted_files.choice(row, 'answer', *'abcde'),),
  )


SAT = PromptedTask(
  'sat',
  'choices',
  'per_token',
  ('accuracy',),
  {'test': ('SAT-package-V3.txt',)},
  'Peter Turney, on request (aclweb.org/aclwiki: SAT Analogy Questions): '
  'SAT-package-V3.txt',
  _rows,
  ('pairs', 'answer'),
  _question,
  split='test',
  examples='itself',
  shots=20,
)
