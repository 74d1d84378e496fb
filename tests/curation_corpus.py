"""A small raw corpus and a curation of it, for tests of the whole pipeline."""

import gzip
import json
import pathlib
import random

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


def content(workdir: pathlib.Path) -> dict[str, bytes]:
  """Returns what a curation wrote, but for its marks."""
  return {
    str(path.relative_to(workdir)): path.read_bytes()
    for path in sorted(workdir.rglob('*'))
    if path.is_file() and path.relative_to(workdir).parts[0] != 'state'
  }
