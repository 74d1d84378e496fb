"""A dirty corpus with known faults, made from clean books: what curation is tried on.

Claim: none of its own; `gpt3/curation_helps.py` trains on what it writes. Source: our
own, after what GPT-3's appendix A removes. Cost: seconds.

  python experiments/gpt3/raw_text.py --books=FOLDER --output=runs/curation

FOLDER has one .txt for each book. Of every eighth book parts are held out, and parts of
the one after it are the reference of good text that a quality classifier learns from;
both stay as they are. The others are cut into documents of 2,000 characters or more,
and dirt is added, as many documents of each kind as KINDS says for each clean one:

  copy      a document again, as it is
  near      a document again, one word in forty another one
  page      menus, notices and lists of links, as around the text of web pages
  code      lines of an assignment or a call, with made-up names
  noise     a document whose characters are shuffled

raw.jsonl has all of them in random order, each with its kind (which no filter reads).
"""

import json
import pathlib
import random
import sys
from collections.abc import Iterator

from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from gpt_jax import files
from gpt_jax.cli.messages import run_script
from gpt_jax.config import UserError

_BOOKS = flags.DEFINE_string('books', None, 'folder of .txt files', required=True)
_OUTPUT = flags.DEFINE_string('output', None, 'folder to write into', required=True)
_DOCUMENTS = flags.DEFINE_integer('documents', 1500, 'clean ones', lower_bound=100)
_SEED = flags.DEFINE_integer('seed', 0, 'of the dirt and of the order')

KINDS = {'copy': 0.4, 'near': 0.4, 'page': 0.3, 'code': 0.15, 'noise': 0.15}
SIZE = 2_000  # characters of a document, at least
OTHERS = 300  # documents that are held out, and of the reference
_MENU = 'home about news products support contact login register help sitemap'.split()
_NOTICE = (
  'All rights reserved. Reproduction without permission is not allowed.',
  'This site uses cookies. Click here to accept them and go on.',
  'Sign up for our newsletter and never miss an offer.',
  'Click here to print this page. Click here to send it to a friend.',
)


def documents(book: str) -> Iterator[str]:
  """Yields a book in parts of whole paragraphs, each of `SIZE` characters or more."""
  part: list[str] = []
  for paragraph in book.split('\n\n'):
    part.append(' '.join(paragraph.split()))
    if sum(map(len, part)) >= SIZE:
      yield '\n\n'.join(part)
      part = []


def near(text: str, words: list[str], draw: random.Random) -> str:
  """Returns the text with one word in forty replaced by one of `words`."""
  return ' '.join(
    draw.choice(words) if draw.random() < 1 / 40 else word for word in text.split(' ')
  )


def page(draw: random.Random) -> str:
  """Returns what stands around the text of a web page, without the text."""
  lines = []
  while sum(map(len, lines)) < SIZE:
    menu = draw.sample(_MENU, 5)
    links = (f'{draw.choice(_MENU)}/{draw.randrange(10**6)}.html' for _ in range(3))
    lines += [' | '.join(menu), draw.choice(_NOTICE), *links]
  return '\n'.join(lines)


def code(words: list[str], draw: random.Random) -> str:
  """Returns lines that look like a program's, with names made of `words`."""

  def name() -> str:
    return '_'.join(filter(str.isalpha, draw.sample(words, 2))).lower() or 'x'

  lines: list[str] = []
  while sum(map(len, lines)) < SIZE:
    indent = '  ' * draw.randrange(4)
    value = draw.choice((f'{name()}[{draw.randrange(99)}]', f'{draw.random():.4f}'))
    lines.append(
      draw.choice(
        (
          f'{indent}{name()} = {value};',
          f'{indent}if ({name()} == {value}) {{ return {name()}({name()}, {value}); }}',
        )
      )
    )
  return '\n'.join(lines)


def noise(text: str, draw: random.Random) -> str:
  """Returns the text's characters in random order."""
  return ''.join(draw.sample(text, len(text)))


def dirty(clean: list[str], draw: random.Random) -> list[dict[str, str]]:
  """Returns clean documents among dirt, in random order: rows with `text`, `kind`."""
  words = ' '.join(clean[:: max(1, len(clean) // 50)]).split()
  makers = {
    'copy': lambda: draw.choice(clean),
    'near': lambda: near(draw.choice(clean), words, draw),
    'page': lambda: page(draw),
    'code': lambda: code(words, draw),
    'noise': lambda: noise(draw.choice(clean), draw),
  }
  rows = [{'text': text, 'kind': 'clean'} for text in clean]
  for kind, share in KINDS.items():
    rows += [
      {'text': makers[kind](), 'kind': kind} for _ in range(round(share * len(clean)))
    ]
  draw.shuffle(rows)
  return rows


def write(books: pathlib.Path, output: pathlib.Path, number: int, seed: int) -> str:
  """Writes raw.jsonl, reference.jsonl and held_out.txt, and says how much they hold.

  Args:
    number: clean documents at most.
  """
  paths = sorted(books.glob('*.txt'))
  if len(paths) < 8:
    raise UserError(
      f'--books={books} has {len(paths)} .txt files; 8 or more are needed, as every '
      'eighth is held out'
    )
  texts = [list(documents(path.read_text(encoding='utf-8'))) for path in paths]
  draw = random.Random(seed)

  def some(most: int, *places: int) -> list[str]:
    every = [part for i, text in enumerate(texts) if i % 8 in places for part in text]
    return draw.sample(every, min(most, len(every)))

  clean, reference, held_out = (
    some(number, *range(2, 8)),
    some(OTHERS, 1),
    some(OTHERS, 0),
  )
  rows = dirty(clean, draw)
  output.mkdir(parents=True, exist_ok=True)
  for name, lines in (
    ('raw', rows),
    ('reference', [{'text': text} for text in reference]),
  ):
    text = ''.join(json.dumps(row) + '\n' for row in lines)
    files.write_whole(output / f'{name}.jsonl', text)
  files.write_whole(output / 'held_out.txt', '\n\n'.join(held_out))
  return (
    f'{len(rows):,} documents, {len(clean):,} of them clean; {len(reference):,} of '
    f'reference and {len(held_out):,} held out'
  )


def main(argv: list[str]) -> None:
  """Writes the files and prints how much they hold."""
  del argv
  books, output = pathlib.Path(_BOOKS.value), pathlib.Path(_OUTPUT.value)
  print(write(books, output, _DOCUMENTS.value, _SEED.value))


if __name__ == '__main__':
  run_script(main)
