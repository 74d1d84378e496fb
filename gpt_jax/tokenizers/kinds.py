"""The kinds of tokenizers: trained from texts, opened from files, loaded again."""

from collections.abc import Iterable
from pathlib import Path

from gpt_jax.config import TRAINED, UserError
from gpt_jax.files import field, read_json, shown
from gpt_jax.tokenizers.bpe_files import read_bpe
from gpt_jax.tokenizers.byte_level import ByteLevel
from gpt_jax.tokenizers.characters import (
  Bytes,
  Characters,
  Numbers,
  read_characters,
)
from gpt_jax.tokenizers.gpt1 import GPT1
from gpt_jax.tokenizers.protocol import KIND, Tokenizer
from gpt_jax.tokenizers.sentencepiece_model import SentencePiece


def train(kind: str, texts: Iterable[str], vocab: int) -> Tokenizer:
  """Returns a tokenizer made from texts, the same for the same texts.

  Args:
    kind: one of TRAINED.
    texts: for 'chars' all the text that it will see, held-out text included.
      SentencePiece and byte-level BPE learn from an even sample of long texts.
    vocab: number of ids; 'chars' and 'bytes' have as many as they need.

  Raises:
    UserError: `vocab` does not suit the text, or the kind is unknown.
  """
  if kind == 'bytes':
    return Bytes()
  if kind == 'chars':
    return Characters(''.join(sorted(set().union(*map(set, texts)))))
  if kind == 'byte_bpe':
    return ByteLevel.train(texts, vocab)
  if kind in ('bpe', 'unigram'):
    return SentencePiece.train(kind, texts, vocab)
  raise UserError(f'tokenizer {kind!r} must be one of {", ".join(TRAINED)}')


def open_model(path: str | Path, kind: str = 'sentencepiece') -> SentencePiece:
  """Returns the tokenizer in a SentencePiece .model file.

  Its documents end with its own <|endoftext|>, else its </s>, else its <s>. Most such
  models normalise text: they do not give back every character.

  Args:
    kind: as in `SentencePiece`.

  Raises:
    UserError: there is no such file, or it is not a SentencePiece model.
  """
  try:
    return SentencePiece(Path(path).read_bytes(), kind, str(path))
  except OSError as e:
    raise UserError(f'{path}: can not be read: {e.strerror or e}') from e


# Files that mark a folder of others: GPT-1's release, GPT-2's, Hugging Face's.
_PAIRS = (
  ('encoder_bpe_40000.json', 'vocab_40000.bpe'),
  ('encoder.json', 'vocab.bpe'),
  ('vocab.json', 'merges.txt'),
)


def open_path(path: str | Path, cleaning: str = 'auto') -> Tokenizer:
  """Returns the tokenizer in a file or folder, ours or of others.

  Args:
    path: a folder of `save`, or a workdir that has one; a folder with the vocabulary
      and merges of GPT-1 or GPT-2 as released or as in Hugging Face's; a
      tokenizer.json; a SentencePiece .model; a .json of characters
      (`characters.read_characters`).
    cleaning: as in `gpt1.GPT1`.

  Raises:
    UserError: there is none, or it is damaged or of an unknown kind.
  """
  path = Path(path).expanduser()
  if path.is_file() and (characters := read_characters(path)):
    return characters
  if path.is_file():
    return ByteLevel.open_json(path) if path.suffix == '.json' else open_model(path)
  for folder in (path, path / 'tokenizer'):
    if (folder / KIND).exists():
      return load(folder)
  for vocab, merges in _PAIRS:
    if (path / vocab).exists() and (path / merges).exists():
      ids, pairs = read_bpe(path / vocab, path / merges)
      if any(entry.endswith('</w>') for entry in ids):
        return GPT1(ids, pairs, cleaning=cleaning, name=str(path))
      return ByteLevel(ids, pairs, name=str(path))
  if (path / 'tokenizer.json').exists():
    return ByteLevel.open_json(path / 'tokenizer.json')
  if len(models := sorted(path.glob('*.model'))) == 1:
    return open_model(models[0])
  raise UserError(
    f'{path}: holds no tokenizer; give one of {", ".join(TRAINED)}, a .model file, a '
    'tokenizer.json, or a folder with vocab.json and merges.txt'
  )


def load(folder: str | Path) -> Tokenizer:
  """Returns the tokenizer that `save` wrote into a folder.

  Raises:
    UserError: there is none, or a file of it is missing or damaged.
  """
  folder = Path(folder)
  path = folder / KIND
  if not path.exists():
    raise UserError(f'{folder}: holds no tokenizer: there is no {KIND} in it')
  about = read_json(path)
  kind = field(about, 'kind', str, path)
  if kind in ('bpe', 'unigram', 'sentencepiece'):
    return open_model(folder / 'sentencepiece.model', kind)
  if kind == 'byte_bpe':
    return ByteLevel.load(folder, about)
  if kind == 'gpt1':
    return GPT1.load(folder, about)
  if kind == 'chars':
    return Characters.load(folder, about)
  if kind == 'bytes':
    return Bytes()
  if kind == 'numbers':
    vocab, eot = (field(about, name, int, path) for name in ('vocab', 'eot'))
    return Numbers(vocab, eot, str(path))
  raise UserError(f'{path}: kind={shown(kind)} is unknown to this version')
