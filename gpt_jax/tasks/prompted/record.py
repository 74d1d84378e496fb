"""ReCoRD (Zhang et al. 2018), as in SuperGLUE: which entity stood in the line?

Several names may be right: an answer is right if it is any of them, which is exact
match; the F1 of SuperGLUE is not computed.
"""

from collections.abc import Iterator
from pathlib import Path

from gpt_jax.config import UserError
from gpt_jax.tasks import prompted_files
from gpt_jax.tasks.prompted_files import part, text
from gpt_jax.tasks.prompts import PromptedTask, Question
from gpt_jax.tasks.readers import Row

_BLANK = '@placeholder'


def _rows(path: Path) -> Iterator[Row]:
  """Yields a query at a time."""
  for row in prompted_files.table(path):
    where = row['where']
    passage = part(row, where, 'passage', 'text', kind=str)
    entities = dict.fromkeys(
      passage[part(e, where, 'start', kind=int) : part(e, where, 'end', kind=int) + 1]
      for e in part(row, where, 'passage', 'entities', kind=list)
    )
    for at, query in enumerate(part(row, where, 'qas', kind=list)):
      yield {
        'passage': passage,
        'entities': list(entities),
        'query': part(query, where, 'query', kind=str),
        'answers': [
          part(a, where, 'text') for a in part(query, where, 'answers', kind=list)
        ],
        'group': f'{row.get("idx", row["line"])}',
        'id': f'{row.get("idx", row["line"])}:{at}',
        'where': f'{where}: query {at}',
        'line': row['line'],
      }


def _question(row: Row) -> Question:
  article, *highlights = text(row, 'passage').split('@highlight')
  shown = '\n'.join(f'- {each.strip()}' for each in highlights)
  entities, answers = (
    prompted_files.texts(row, 'entities'),
    prompted_files.texts(row, 'answers'),
  )
  if not set(answers) & set(entities) or _BLANK not in row['query']:
    raise UserError(
      f'{row["where"]}: the query must hold {_BLANK} and an answer be an entity; mend '
      'it'
    )
  return Question(
    f'{article.strip()}\n\n{shown}'.strip(),
    tuple(f'\n- {text(row, "query").replace(_BLANK, each)}' for each in entities),
    tuple(i for i, each in enumerate(entities) if each in answers),
    group=row['group'],
  )


RECORD = PromptedTask(
  'record',
  'choices',
  'per_token',
  ('accuracy',),
  {'train': ('train.jsonl',), 'dev': ('val.jsonl',)},
  'super.gluebenchmark.com/tasks: val.jsonl with passage: text, entities; qas',
  _rows,
  ('passage', 'entities', 'query', 'answers'),
  _question,
  shots=32,
)
