"""A small raw corpus and a curation of it, for tests of the whole pipeline."""

import gzip
import json
import pathlib
import random

from gpt_jax.data.curation.decontaminate import Decontaminate
from gpt_jax.data.curation.dedup import Dedup
from gpt_jax.data.curation.exact import Exact, Passages
from gpt_jax.data.curation.ingest import Source
from gpt_jax.data.curation.pipeline import Curation

# Every stage that brings documents together, or reads texts besides.
COMPARING = Curation(
  (Source('copies', 'raw/copies'),),
  (
    Exact(),
    Dedup(bands=20, rows=2, threshold=0.5),
    Dedup('gpt3'),
    Passages(8),
    Decontaminate('tests.jsonl', window=20, least=20),
  ),
)

CONFIG = """
from gpt_jax.data.curation.filters import C4, Gopher
from gpt_jax.data.curation.ingest import Source
from gpt_jax.data.curation.pipeline import Curation
from gpt_jax.data.curation.quality import Quality


def get_curation(symbols='0.1'):
  return Curation(
    sources=(Source('books', 'raw/books'), Source('crawl', 'raw/crawl')),
    stages=(Gopher(words=(20, 500), symbols=float(symbols)), Quality(('books',))),
  )
"""


def sentence(rng: random.Random, words: list[str]) -> str:
  return ' '.join([*rng.choices(words, k=8), 'and', 'the', rng.choice(words)]) + '.'


def write(folder: pathlib.Path, files: int = 4, documents: int = 30) -> None:
  """Writes raw/ and curate.py in a folder: books, and a crawl that is half junk."""
  rng = random.Random(0)
  syllables = 'ma so ter lin del ra ko pen vi ta'.split()
  words = [''.join(rng.choices(syllables, k=rng.randrange(2, 4))) for _ in range(400)]
  for name, junk in (('books', False), ('crawl', True)):
    (folder / 'raw' / name).mkdir(parents=True)
    for file in range(files):
      rows = []
      for number in range(documents):
        some = words[200:] if junk and number % 2 else words[:220]
        lines = [sentence(rng, some) for _ in range(6)]
        if junk and number % 5 == 0:
          lines.append('#' * 60)
        rows.append(json.dumps({'text': '\n'.join(lines)}))
      # Each file is an item of its own: none is small beside another.
      content = ''.join(row + '\n' for row in rows).encode()
      (folder / f'raw/{name}/{file}.jsonl.gz').write_bytes(gzip.compress(content))
  (folder / 'curate.py').write_text(CONFIG)


def write_copies(folder: pathlib.Path) -> None:
  """Writes raw/copies and tests.jsonl, in which each stage of `COMPARING` has work."""
  rng = random.Random(1)
  words = [f'{a}{b}' for a in 'ma so ter lin del ra ko pen'.split() for b in range(60)]

  def text(count: int) -> str:
    return ' '.join(rng.choices(words, k=count))

  tests, passage = [text(20) for _ in range(3)], text(10)
  (folder / 'raw/copies').mkdir(parents=True)
  for file in range(3):
    texts = [text(60) for _ in range(8)]
    some = texts[0].split()
    texts += [
      texts[1],  # equal
      ' '.join([*some[:50], text(3), *some[53:]]),  # alike, by words in a row
      ' '.join(rng.sample(some, len(some))),  # alike, by words
      f'{text(30)} {passage} {text(30)}',
      f'{text(30)} {tests[file]} {text(30)}',
    ]
    lines = ''.join(json.dumps({'text': each}) + '\n' for each in texts)
    (folder / f'raw/copies/{file}.jsonl').write_text(lines)
  lines = ''.join(json.dumps({'text': each}) + '\n' for each in tests)
  (folder / 'tests.jsonl').write_text(lines)


def content(workdir: pathlib.Path) -> dict[str, bytes]:
  """Returns what a curation wrote, but for its marks."""
  return {
    str(path.relative_to(workdir)): path.read_bytes()
    for path in sorted(workdir.rglob('*'))
    if path.is_file() and path.relative_to(workdir).parts[0] != 'state'
  }
