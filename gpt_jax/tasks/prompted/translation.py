"""WMT'14 and '16, as translated by GPT-2 and GPT-3."""

import html
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from gpt_jax import files
from gpt_jax.config import UserError
from gpt_jax.tasks import prompted_files
from gpt_jax.tasks.prompted_files import text
from gpt_jax.tasks.prompts import PromptedTask, Question
from gpt_jax.tasks.readers import Row

_LANGUAGES = {'en': 'English', 'fr': 'French', 'de': 'German', 'ro': 'Romanian'}


def _rows(path: Path, source: str, target: str) -> Iterator[Row]:
  """Yields pairs: of an export of the hub, of two .sgm files, or of two plain ones."""
  if '.jsonl' in path.suffixes:
    for row in prompted_files.table(path):
      pair = [
        prompted_files.part(row, row['where'], 'translation', k)
        for k in (source, target)
      ]
      yield row | dict(zip(('source', 'target'), pair, strict=True))
    return
  ends = f'-src.{source}.sgm', f'-ref.{target}.sgm', f'.{source}', f'.{target}'
  at = 0 if path.name.endswith(ends[0]) else 2
  other = path.with_name(path.name.removesuffix(ends[at]) + ends[at + 1])
  sides = [_segments(file) for file in (path, other)]
  if len(sides[0]) != len(sides[1]):
    raise UserError(f'{path} and {other} have not as many lines; fetch both again')
  for number, (a, b) in enumerate(zip(*sides, strict=True), 1):
    place = {'where': f'{path}: segment {number}', 'line': str(number)}
    yield {'source': a, 'target': b} | place


def _segments(path: Path) -> list[str]:
  """Returns the segments of one side."""
  read = files.read_text(path)
  if path.suffix == '.sgm':
    found = re.findall(r'<seg[^>]*>(.*?)</seg>', read, re.DOTALL | re.IGNORECASE)
    return [html.unescape(each).strip() for each in found]
  return read.removesuffix('\n').split('\n')


def _question(row: Row, language: str) -> Question:
  source = text(row, 'source')
  asked = f'Q: What is the {language} translation of {source} A:'
  return Question(f'{source} =', (f' {text(row, "target")}',), (0,), zero_shot=asked)


def _task(year: int, source: str, target: str) -> PromptedTask:
  foreign = target if source == 'en' else source
  test = {'fr': 'newstest2014', 'de': 'newstest2016', 'ro': 'newstest2016'}[foreign]
  dev = {'fr': 'newstest2013', 'de': 'newstest2015', 'ro': 'newsdev2016'}[foreign]
  # WMT'14 has one file for both directions of a pair, WMT'16 one for each.
  pair = f'{foreign}en' if year == 14 else f'{source}{target}'

  def names(newstest: str, split: str) -> tuple[str, ...]:
    return (
      f'{newstest}-{pair}-src.{source}.sgm',
      f'{newstest}.{source}',
      f'{split}.jsonl',
    )

  return PromptedTask(
    f'wmt{year}_{source}_{target}',
    'free',
    'beam',
    ('bleu',),
    {
      'train': (f'train.{source}', 'train.jsonl'),
      'dev': names(dev, 'validation'),
      'test': names(test, 'test'),
    },
    f'statmt.org/wmt{year}: {names(test, "")[0]} and its -ref.{target}.sgm; or .jsonl '
    f'with translation: {source}, {target}',
    partial(_rows, source=source, target=target),
    ('source', 'target'),
    partial(_question, language=_LANGUAGES[target]),
    folder=f'wmt{year}_{foreign}_en',
    split='test',
    shots=64,
    separator='\n',
    limit=128,
  )


WMT = tuple(
  _task(year, *pair)
  for year, foreign in ((14, 'fr'), (16, 'de'), (16, 'ro'))
  for pair in (('en', foreign), (foreign, 'en'))
)
