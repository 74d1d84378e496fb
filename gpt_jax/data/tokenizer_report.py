"""What tokenizers make of a text, and how they compare on a corpus."""

import dataclasses
import itertools
import time
from collections.abc import Sequence
from pathlib import Path

import rich.box
from rich.table import Table
from rich.text import Text

from gpt_jax import tokenizers
from gpt_jax.config import UserError
from gpt_jax.data import sources

_BLOCK = 10_000  # characters; trained and measured on in turn
_VOCAB = 4096  # of a tokenizer that is trained here, unless NAME:VOCAB says otherwise


def pieces_table(name: str, text: str) -> Table:
  """Returns a table of the ids of a text, their pieces, and the text of each.

  Args:
    name: 'bytes', or a tokenizer's path (see `tokenizers.open_path`).

  Raises:
    UserError: there is no such tokenizer, or it can't encode the text.
  """
  if name in tokenizers.TRAINED and name != 'bytes':
    raise UserError(f'{name} is made from texts; give the folder or workdir of one')
  tokenizer = tokenizers.Bytes() if name == 'bytes' else tokenizers.open_path(name)
  ids = tokenizer.encode(text)
  table = Table('id', 'piece', 'text', title=f'{len(ids)} tokens, {tokenizer.kind}')
  for i, piece in zip(ids, tokenizer.pieces(ids), strict=True):
    # As Text: in a plain string rich takes [b] for an order to write in bold.
    table.add_row(str(i), Text(piece), Text(repr(tokenizer.decode([i]))))
  back = tokenizer.decode(ids)
  same = 'decodes to the same text'
  table.caption = same if back == text else Text(f'decodes to {back!r}')
  return table


@dataclasses.dataclass(frozen=True)
class Row:
  """What one tokenizer did to one language.

  Attributes:
    tokenizer: its name, as given.
    language: label of the text, or the source it came from.
    bytes_per_token: of the text in UTF-8.
    tokens_per_word: words are what blanks divide.
    unknown: share of tokens that stand for text without an entry of its own: <unk>,
      or a byte where bytes are only the last resort.
    lossless: share of the blocks of text that decoding gives back.
    speed: encoding, MB/s of text, one process.
  """

  tokenizer: str
  language: str
  vocab: int
  bytes_per_token: float
  tokens_per_word: float
  unknown: float
  lossless: float
  speed: float


def compare(
  names: Sequence[str], source: str, *, field: str = 'text', limit: float = 4e6
) -> list[Row]:
  """Returns a row for each tokenizer and language, languages in the order given.

  Args:
    names: tokenizers: paths (see `tokenizers.open_path`), or kinds of
      `tokenizers.TRAINED`, also KIND:VOCAB. These are trained on every other block of
      10,000 characters; all are measured on the blocks between.
    source: a source of text; its entries may be labelled, as in
      'English=novels,Russian=ru/*.txt'.
    field: of a JSON line or a column of a table that holds the text.
    limit: characters read of each entry.

  Raises:
    UserError: a tokenizer or a text can't be had; an entry has under two blocks.
  """
  learn, measure = [], {}
  for language, blocks in _blocks(source, field, limit).items():
    learn += blocks[::2]
    measure[language] = blocks[1::2]
    if not measure[language]:
      raise UserError(
        f'{language}: {sum(map(len, blocks))} characters are too few to learn from '
        f'and to measure on; give at least {2 * _BLOCK}'
      )
  tokenizer_of = {name: _make(name, learn) for name in names}
  return [
    _measure(name, tokenizer, language, blocks)
    for language, blocks in measure.items()
    for name, tokenizer in tokenizer_of.items()
  ]


def _blocks(source: str, field: str, limit: float) -> dict[str, list[str]]:
  """Returns the text of each language in blocks."""
  blocks: dict[str, list[str]] = {}
  for entry in sources.split_list(source):
    label, mark, rest = entry.partition('=')
    labelled = mark and not set(label) & set('/:.*')
    language, entry = (label, rest) if labelled else (Path(entry).name, entry)
    texts, size = [], 0
    for part in sources.parts(entry, field=field):
      texts.append(part.text)
      size += len(part.text)
      if size >= limit:
        break
    whole = ''.join(texts)[: int(limit)]
    starts = range(0, len(whole), _BLOCK)
    blocks.setdefault(language, []).extend(whole[at : at + _BLOCK] for at in starts)
  return blocks


def _make(name: str, texts: list[str]) -> tokenizers.Tokenizer:
  """Returns a tokenizer opened by its path, or trained."""
  kind, _, vocab = name.partition(':')
  if kind not in tokenizers.TRAINED:
    return tokenizers.open_path(name)
  if vocab and not vocab.isdecimal():
    raise UserError(f'tokenizer {name!r}: {vocab!r} must be a number, as in bpe:4096')
  if kind == 'chars':
    texts = [*texts, ''.join(map(chr, range(32, 127)))]
  return tokenizers.train(kind, texts, int(vocab or _VOCAB))


def _measure(
  name: str, tokenizer: tokenizers.Tokenizer, language: str, blocks: list[str]
) -> Row:
  """Returns the row of a tokenizer on the blocks of a language."""
  tokenizer.encode(blocks[0])  # caches are filled when the clock starts
  begun = time.perf_counter()
  ids = [tokenizer.encode(block) for block in blocks]
  seconds = time.perf_counter() - begun
  size = sum(len(block.encode()) for block in blocks)
  count = sum(map(len, ids))
  unknown = sum(i in tokenizer.unknown for i in itertools.chain.from_iterable(ids))
  same = sum(tokenizer.decode(i) == b for i, b in zip(ids, blocks, strict=True))
  return Row(
    name,
    language,
    tokenizer.vocab,
    size / count,
    count / max(sum(len(block.split()) for block in blocks), 1),
    unknown / count,
    same / len(blocks),
    size / 1e6 / seconds,
  )


def comparison_table(rows: Sequence[Row]) -> Table:
  """Returns the rows of `compare` as a table for the terminal."""
  table = Table(box=rich.box.SIMPLE)
  for heading in ('language', 'tokenizer'):
    table.add_column(heading, overflow='fold')
  for heading in (
    'vocab',
    'bytes\n/token',
    'tokens\n/word',
    'unknown\n%',
    'lossless\n%',
    'MB/s',
  ):
    table.add_column(heading, justify='right', no_wrap=True)
  for before, row in zip([None, *rows], rows, strict=False):
    if before and before.language != row.language:
      table.add_section()
    table.add_row(
      Text(row.language),
      Text(row.tokenizer),
      f'{row.vocab:,}',
      f'{row.bytes_per_token:.2f}',
      f'{row.tokens_per_word:.2f}',
      f'{100 * row.unknown:.2f}',
      f'{100 * row.lossless:.0f}',
      f'{row.speed:.1f}',
    )
  return table
