"""Winograd schemas (Levesque et al. 2012), the 273 of Trinh & Le 2018.

'partial' scores what follows the pronoun's place after each noun, 'full' noun and rest.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

from gpt_jax import files
from gpt_jax.config import UserError
from gpt_jax.tasks import prompted_files
from gpt_jax.tasks.prompted_files import text
from gpt_jax.tasks.prompts import PromptedTask, Question
from gpt_jax.tasks.readers import Row

_OWNING = 'my', 'his', 'her', 'our', 'their', 'its'
_SMALL = {'a', 'an', 'the', *_OWNING}


def _rows(path: Path) -> Iterator[Row]:
  """Yields the first 273 schemas."""
  found = _schemas(path) if path.suffix == '.xml' else prompted_files.table(path)
  return (row for _, row in zip(range(273), found, strict=False))


def _schemas(path: Path) -> Iterator[Row]:
  """Yields the schemas of Davis' collection in the columns of the hub's."""
  try:
    schemas = ElementTree.fromstring(files.read_text(path)).findall('schema')
  except ElementTree.ParseError as e:
    raise UserError(f'{path}: not XML ({files.brief(e)}); fetch it again') from e
  for number, schema in enumerate(schemas, 1):
    parts = [schema.findtext(f'text/{tag}', '') for tag in ('txt1', 'pron', 'txt2')]
    before, pronoun, after = (' '.join(each.split()) for each in parts)
    key = schema.findtext('correctAnswer', '').strip().strip('.')
    answers = [a.text or '' for a in schema.findall('answers/answer')]
    yield {
      'text': f'{before} {pronoun}{_space(after)}{after}',
      'pronoun': pronoun,
      'pronoun_loc': len(before) + 1,
      'options': answers,
      'label': {'A': 0, 'B': 1}.get(key, key),
      'where': f'{path}: schema {number}',
      'line': str(number),
    }


def _space(after: str) -> str:
  return '' if after[:1] in '.,;:!?\'"' else ' '


def _question(row: Row) -> Question:
  pronoun, at = text(row, 'pronoun'), row['pronoun_loc']
  passage = prompted_files.exact(row, 'text')
  if not isinstance(at, int) or not passage[at:].startswith(pronoun):
    raise UserError(
      f'{row["where"]}: pronoun_loc {files.shown(at)} is not where '
      f'{files.shown(pronoun)} is; mend it'
    )
  before = passage[:at].rstrip()
  options = [
    _in_place(o, pronoun, before) for o in prompted_files.texts(row, 'options')
  ]
  return Question(
    before,
    tuple(f' {option}' if before else option for option in options),
    (prompted_files.choice(row, 'label', '0', '1'),),
    completion=passage[at + len(pronoun) :].rstrip(),
  )


def _in_place(option: str, pronoun: str, before: str) -> str:
  """Returns a noun as it stands in the place of the pronoun."""
  first, _, rest = option.partition(' ')
  begins = not before or before[-1] in '.!?"'
  if first.lower() in _SMALL:
    first = first.capitalize() if begins else first.lower()
  option = f'{first} {rest}' if rest else first
  return f"{option}'s" if pronoun.lower() in _OWNING else option


WINOGRAD = PromptedTask(
  'winograd',
  'partial',
  'partial',
  ('accuracy',),
  {'test': ('WSCollection.xml', 'wsc273.jsonl', 'test.jsonl')},
  'cs.nyu.edu/~davise/papers/WinogradSchemas/WSCollection.xml; or .jsonl with text, '
  'pronoun, pronoun_loc, options, label',
  _rows,
  ('text', 'pronoun', 'pronoun_loc', 'options', 'label'),
  _question,
  split='test',
  examples='itself',
  shots=7,
)
