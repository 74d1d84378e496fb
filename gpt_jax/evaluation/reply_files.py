"""Files of replies and of references, and their metrics as a table; without jax.

A file has a text a line. Of references there may be several files, and several
references in a line, divided by tabs; an empty one is none.
"""

import hashlib
import importlib.metadata
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from gpt_jax.config import UserError
from gpt_jax.evaluation import dialogue_metrics as metrics
from gpt_jax.files import read_text

ORDERS = 1, 2, 3, 4
_Texts = Sequence[str]
_Metric = Callable[[_Texts, Sequence[_Texts], int], float]

# Metrics of replies by n, and how each is defined.
OF_REPLIES: dict[str, tuple[Callable[[_Texts, int], float], str]] = {
  'Entropy': (metrics.entropy, 'of all n-grams [nats]'),
  'Dist': (metrics.distinct, 'distinct n-grams over all n-grams'),
}
# Metrics that need references, by n.
OF_REFERENCES: dict[str, tuple[_Metric, str]] = {
  'NIST': (metrics.nist, 'as mteval-v14c, words between blanks'),
  'BLEU': (metrics.bleu, 'as multi-bleu.perl: words between blanks, not smoothed'),
  'sacreBLEU': (metrics.sacre_bleu, "of sacrebleu's default tokens and smoothing"),
}
METEOR = 'exact and stem stages alone: no synonyms, no paraphrases'
LENGTH = 'mean words of a reply'


def read_lines(path: str | pathlib.Path) -> list[str]:
  """Returns the lines of a file, which has one at least.

  Raises:
    UserError: it can't be read, is not UTF-8 or empty.
  """
  text = read_text(path)
  if not text.strip():
    raise UserError(f'{path} has no text; give a file with a text a line')
  return [line.removesuffix('\r') for line in text.removesuffix('\n').split('\n')]


def read_references(paths: Sequence[str | pathlib.Path], count: int) -> list[list[str]]:
  """Returns the references of each reply, of all files.

  Args:
    count: replies.

  Raises:
    UserError: a file has not as many lines, or a reply has no reference.
  """
  references: list[list[str]] = [[] for _ in range(count)]
  for path in paths:
    rows = read_lines(path)
    if len(rows) != count:
      raise UserError(
        f'{path} has {len(rows):,} lines for {count:,} replies; give a line for each, '
        'empty where it has no reference there'
      )
    for texts, row in zip(references, rows, strict=True):
      texts += [text for text in row.split('\t') if text.strip()]
  if paths and not all(references):
    line = next(i for i, texts in enumerate(references, 1) if not texts)
    raise UserError(
      f'line {line} of {", ".join(map(str, paths))} has no reference; give one at '
      'least, or leave the reply out'
    )
  return references


def measured(
  path: str | pathlib.Path, references: Sequence[str | pathlib.Path] = ()
) -> dict[str, Any]:
  """Returns the metrics of a file of replies, as values of JSON.

  Args:
    references: files of them; none: only what needs no reference is measured.

  Returns:
    values: by name, such as NIST-4, shares and scores as they are; definitions: of
    each; not_measured: why, by name, where a package lacks; files: their
    SHA-256; references: how many, the fewest and the most of a reply; versions: of the
    packages that are asked.

  Raises:
    UserError: as `read_lines` and `read_references`.
  """
  replies = read_lines(path)
  texts = read_references(references, len(replies))
  values: dict[str, float] = {}
  lacking: dict[str, str] = {}
  definitions = {'Length': LENGTH}
  for name, (metric, what) in OF_REFERENCES.items() if references else ():
    definitions[name] = what
    try:
      values |= {f'{name}-{n}': metric(replies, texts, n) for n in ORDERS}
    except UserError as error:  # a package is not there
      lacking[name] = str(error)
  if references:
    definitions['METEOR'] = METEOR
    try:
      values['METEOR'] = metrics.meteor(replies, texts)
    except UserError as error:
      lacking['METEOR'] = str(error)
  for name, (metric, what) in OF_REPLIES.items():
    definitions[name] = what
    values |= {f'{name}-{n}': metric(replies, n) for n in ORDERS}
  values['Length'] = metrics.mean_length(replies)
  sizes = [len(each) for each in texts]
  return {
    'values': values,
    'definitions': definitions,
    'not_measured': lacking,
    'replies': len(replies),
    'references': [sum(sizes), min(sizes), max(sizes)],
    'versions': {name: _version(name) for name in ('sacrebleu', 'nltk')},
    'files': {str(each): _digest(each) for each in (path, *references)},
  }


def table(result: dict[str, Any]) -> Any:
  """Returns what `measured` gave as a table of rich: a row a metric, a column an n."""
  from rich.markup import escape
  from rich.table import Table

  total, fewest, most = result['references']
  several = f'{fewest}' if fewest == most else f'{fewest} to {most}'
  about = f', {several} references of each' if total else ''
  table = Table(title=f'{result["replies"]:,} replies{about}')
  for name in ('metric', *(f'n = {n}' for n in ORDERS), ''):
    table.add_column(name, justify='right' if name.startswith('n') else 'left')
  values = result['values']
  for name in (*OF_REFERENCES, 'METEOR', *OF_REPLIES, 'Length'):
    if name in result['not_measured']:
      table.add_row(name, *[''] * len(ORDERS), result['not_measured'][name])
    elif name in values:
      alone = f'{values[name]:.5f}', *[''] * (len(ORDERS) - 1)
      table.add_row(name, *alone, escape(result['definitions'][name]))
    elif name in result['definitions']:
      cells = (f'{values[f"{name}-{n}"]:.5f}' for n in ORDERS)
      table.add_row(name, *cells, escape(result['definitions'][name]))
  return table


def _version(package: str) -> str:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return ''


def _digest(path: str | pathlib.Path) -> str:
  return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
