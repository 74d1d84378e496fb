"""Prompts as files: a text with named fields, {like} {these}.

A file may say where the model is to write: at {answer}. The prompt is what comes before
it, without blanks at the end, since a token begins with the blank before its word; what
comes after it ends the answer.
"""

import pathlib
import re
import string
from collections.abc import Mapping
from typing import NamedTuple

from gpt_jax.config import UserError, nearest
from gpt_jax.files import read_text, shown

_MOST = 2**20  # bytes of a template


class Template(NamedTuple):
  """A prompt with fields.

  Attributes:
    text: {name} is replaced by a field's value; {{ and }} are braces.
    gap: what stands between the prompt and an answer.
    stop: what ends an answer; '': nothing.
  """

  name: str
  text: str
  fields: tuple[str, ...]
  gap: str
  stop: str

  def fill(self, values: Mapping[str, str]) -> str:
    """Returns the prompt with values in place of the fields.

    Raises:
      UserError: a field has no value, or a value no field.
    """
    wrong = [f'no value for {{{f}}}' for f in self.fields if f not in values]
    wrong += [
      f'there is no field {{{name}}}.{nearest(name, self.fields)}'
      for name in values
      if name not in self.fields
    ]
    if wrong:
      raise UserError(f'{self.name}: {"; ".join(wrong)}')
    return self.text.format(**values)


def read(path: str | pathlib.Path) -> Template:
  """Returns the template in a text file; the line break at its very end is not read.

  Raises:
    UserError: the file can't be read, or has braces that are no field's.
  """
  text = read_text(path, most=_MOST).removesuffix('\n')
  try:
    parts = list(string.Formatter().parse(text))
  except ValueError as error:
    raise UserError(f'{path}: {error}; write {{{{ for a brace') from error
  fields = [(name, form, cast) for _, name, form, cast in parts if name is not None]
  # The parser takes {answer:} for {answer}.
  colons = re.findall(r'\{(\w+:)\}', text.replace('{{', '').replace('}}', ''))
  fields += [(name, '', None) for name in colons]
  for name, form, cast in fields:
    if not name.isidentifier() or form or cast:
      raise UserError(
        f'{path}: {shown(name)} is no field: a name of letters, digits and _ between '
        'braces; write {{ for a brace'
      )
  names = [name for name, _, _ in fields]
  if 'answer' not in names:
    return Template(str(path), text, tuple(dict.fromkeys(names)), ' ', '')
  if names.index('answer') != len(names) - 1:
    raise UserError(
      f'{path}: {{answer}} must be the last field, once; the prompt is what comes '
      'before it'
    )
  last = next(i for i, part in enumerate(parts) if part[1] == 'answer')
  head = ''.join(
    _literal(literal) + (f'{{{name}}}' if at < last and name is not None else '')
    for at, (literal, name, *_) in enumerate(parts[: last + 1])
  )
  kept = head.rstrip(' ')
  known = tuple(dict.fromkeys(names[:-1]))
  stop = ''.join(literal for literal, *_ in parts[last + 1 :])
  return Template(str(path), kept, known, head[len(kept) :], stop)


def _literal(text: str) -> str:
  """Returns a text that stands for itself in a template."""
  return text.replace('{', '{{').replace('}', '}}')
