"""Texts on which GPT-2's perplexity was measured (Radford et al. 2019, table 3).

WikiText (Merity et al. 2017), the Penn Treebank of Mikolov et al. 2010, enwik8 and
text8 (Mahoney 2006), the One Billion Word benchmark (Chelba et al. 2013).
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from gpt_jax import files
from gpt_jax.config import UserError
from gpt_jax.tasks import readers
from gpt_jax.tasks.detokenize import LM1B, PTB, WIKITEXT, Detokenizer
from gpt_jax.tasks.prompts import Document, TextSet


def document(name: str, original: str, text: str) -> Document:
  """Returns a text with the units of its original."""
  return Document(
    name,
    text,
    words=len(original.split()),
    lines=original.count('\n'),
    bytes=len(original.encode()),
    characters=len(original),
  )


def pages(text: str) -> Iterator[str]:
  """Yields the pages of a WikiText; a line like ' = Title = ' begins one."""
  page = []
  for line in text.splitlines(keepends=True):
    heading = line.replace('= = =', '===').replace('= =', '==').strip()
    begins = heading.startswith('= ') and heading.endswith(' =')
    if begins and ''.join(page).strip():
      yield ''.join(page)
      page = []
    page.append(line)
  yield ''.join(page)


def _wikitext(path: Path, split: str) -> Iterator[Document]:
  """Yields the pages."""
  for number, page in enumerate(pages(files.read_text(path)), 1):
    yield document(f'page {number}', page, WIKITEXT.read(page))


def _whole(path: Path, split: str, spacing: Detokenizer) -> Iterator[Document]:
  """Yields the text as one document: its sentences follow each other."""
  text = files.read_text(path)
  yield document(path.name, text, spacing.read(text))


def _sentences(path: Path, split: str) -> Iterator[Document]:
  """Yields the sentences, which are in no order."""
  paths = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
  for file in paths:
    for row in readers.lines(file):
      line = row['text']
      yield document(row['where'], f'{line}\n', LM1B.read(line))


_PARTS = {'train': (0, 90), 'dev': (90, 95), 'test': (95, 100)}  # of 100 million bytes


def _hutter(path: Path, split: str) -> Iterator[Document]:
  """Yields the split's part of the 100 million bytes, from a whole character on."""
  start, end = (at * 1_000_000 for at in _PARTS[split])
  size = path.stat().st_size
  if size != 100_000_000:
    raise UserError(f'{path}: has {size:,} bytes, not 100,000,000; unpack it again')
  with open(path, 'rb') as stream:
    stream.seek(start)
    part = stream.read(end - start)
  text = part.decode('utf-8', 'ignore')  # a character may be cut at either end
  if len(part) - len(text.encode()) > 6:
    raise UserError(f'{path}: not UTF-8 text; fetch it again')
  yield document(path.name, text, text)


def _wiki_set(name: str) -> TextSet:
  """Returns WikiText-2 or -103, as files with <unk> or raw."""
  return TextSet(
    name.replace('-', ''),
    'word_perplexity',
    {
      split: (f'wiki.{word}.tokens', f'wiki.{word}.raw', f'{word}.txt')
      for split, word in (('train', 'train'), ('dev', 'valid'), ('test', 'test'))
    },
    f'hf:Salesforce/wikitext:{name}-v1, or {name}-v1.zip: wiki.test.tokens',
    _wikitext,
    folder=name,
  )


WIKITEXT2, WIKITEXT103 = map(_wiki_set, ('wikitext-2', 'wikitext-103'))
PENN = TextSet(
  'ptb',
  'word_perplexity',
  {'train': ('ptb.train.txt',), 'dev': ('ptb.valid.txt',), 'test': ('ptb.test.txt',)},
  "Mikolov's simple-examples.tgz (fit.vutbr.cz/~imikolov/rnnlm): data/ptb.test.txt",
  partial(_whole, spacing=PTB),
)
LM1B_SET = TextSet(
  'lm1b',
  'word_perplexity',
  {
    'test': ('news.en.heldout-00000-of-00050', 'heldout-monolingual.tokenized.shuffled')
  },
  'statmt.org/lm-benchmark: 1-billion-word-language-modeling-benchmark-r13output.tar'
  '.gz: heldout-monolingual.tokenized.shuffled/news.en.heldout-00000-of-00050',
  _sentences,
)
ENWIK8, TEXT8 = (
  TextSet(
    name,
    metric,
    dict.fromkeys(('train', 'dev', 'test'), (name,)),
    f'mattmahoney.net/dc/{name}.zip, unpacked: {name} of 100,000,000 bytes',
    _hutter,
  )
  for name, metric in (('enwik8', 'bits_per_byte'), ('text8', 'bits_per_character'))
)
