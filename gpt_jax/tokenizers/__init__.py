"""Tokenizers: text to ids and back, behind one small protocol.

`train` makes one from texts, `open_path` reads one that others made, `load` opens a
folder that `save` wrote. Ids are 0 .. vocab - 1; `eot`, the end-of-text token, is one
of them and stands before every document of a token file.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from gpt_jax.config import TRAINED, UserError
from gpt_jax.tokenizers.bpe_files import (
  EOT,
  KIND,
  encodable,
  even_sample,
  read_bpe,
  write_kind,
)
from gpt_jax.tokenizers.byte_level import ByteLevel
from gpt_jax.tokenizers.gpt1 import GPT1
from gpt_jax.tokenizers.sentencepiece_model import SentencePiece

_BYTE_BPE_SAMPLE = 32 << 20  # characters


class Tokenizer(Protocol):
  """What every tokenizer offers.

  Attributes:
    kind: 'bpe', 'unigram', 'sentencepiece', 'byte_bpe', 'gpt1', 'chars', 'bytes' or
      'numbers'.
    vocab: number of ids, special ones included.
    eot: id of the end-of-text token.
    unknown: ids of text that has no entry of its own.
  """

  kind: str
  vocab: int
  eot: int
  unknown: frozenset[int]

  def encode(self, text: str) -> list[int]:
    """Returns the ids of a text; never `eot`, whatever the text looks like.

    A lone surrogate, which has no UTF-8, is read as U+FFFD.
    """

  def encode_array(self, text: str) -> np.ndarray:
    """Returns the same as an array of unsigned integers."""

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of ids; `eot` is '', bytes that are not UTF-8 are U+FFFD."""

  def pieces(self, ids: Sequence[int]) -> list[str]:
    """Returns a readable form of each id."""

  def save(self, folder: Path) -> None:
    """Writes the tokenizer into a folder, for `load`."""


class Characters:
  """One id for each character of a known set, in the order of their code points."""

  kind = 'chars'
  unknown: frozenset[int] = frozenset()

  def __init__(self, characters: str):
    self._characters = ''.join(sorted(characters))
    self._points = _code_points(self._characters)
    self.eot = len(characters)
    self.vocab = len(characters) + 1

  def encode_array(self, text: str) -> np.ndarray:
    """Returns the ids of a text.

    Raises:
      UserError: a character is not in the set.
    """
    points = _code_points(text)
    ids = np.searchsorted(self._points, points)
    ids[ids == self.eot] = 0
    wrong = np.flatnonzero(self._points[ids] != points) if self.eot else points
    if len(wrong):
      at = int(wrong[0])
      raise UserError(
        f'character {text[at]!r} (U+{ord(text[at]):04X}) at position {at} is not among '
        f'the {self.eot} that this tokenizer knows; leave it out, or train with '
        '--config.data.tokenizer=bpe or bytes'
      )
    return ids.astype(np.uint32)

  def encode(self, text: str) -> list[int]:
    return self.encode_array(text).tolist()

  def decode(self, ids: Sequence[int]) -> str:
    return ''.join(self._characters[i] for i in ids if i != self.eot)

  def pieces(self, ids: Sequence[int]) -> list[str]:
    return [EOT if i == self.eot else self._characters[i] for i in ids]

  def save(self, folder: Path) -> None:
    write_kind(folder, {'kind': self.kind, 'characters': self._characters})


def _code_points(text: str) -> np.ndarray:
  """Returns the code points of a text, uint32."""
  return np.frombuffer(text.encode('utf-32-le', 'surrogatepass'), '<u4')


class Bytes:
  """The 256 bytes of UTF-8, and `eot`."""

  kind = 'bytes'
  eot = 256
  vocab = 257
  unknown: frozenset[int] = frozenset()

  def encode_array(self, text: str) -> np.ndarray:
    return np.frombuffer(encodable(text).encode(), np.uint8)

  def encode(self, text: str) -> list[int]:
    return self.encode_array(text).tolist()

  def encode_bytes(self, content: bytes) -> list[int]:
    """Returns the ids of bytes that need not be UTF-8, for `decode_bytes`."""
    return list(content)

  def decode_bytes(self, ids: Sequence[int]) -> bytes:
    """Returns the bytes that ids stand for; none for `eot`."""
    return bytes(i for i in ids if i != self.eot)

  def decode(self, ids: Sequence[int]) -> str:
    return self.decode_bytes(ids).decode(errors='replace')

  def pieces(self, ids: Sequence[int]) -> list[str]:
    shown = [chr(i) if 32 < i < 127 else f'<0x{i:02X}>' for i in range(256)] + [EOT]
    return [shown[i] for i in ids]

  def save(self, folder: Path) -> None:
    write_kind(folder, {'kind': self.kind})


class Numbers:
  """Ids as texts of numbers, '464 3797': of a model that came without a tokenizer."""

  kind = 'numbers'
  unknown: frozenset[int] = frozenset()

  def __init__(self, vocab: int, eot: int):
    self.vocab = vocab
    self.eot = eot

  def encode(self, text: str) -> list[int]:
    """Returns the ids of a text.

    Raises:
      UserError: it is not numbers below `vocab` and blanks.
    """
    words = text.split()
    wrong = [w for w in words if not w.isdecimal() or int(w) >= self.vocab]
    if wrong:
      raise UserError(
        f'{wrong[0]!r} is not an id: this model came without a tokenizer, so its texts '
        f'are numbers from 0 to {self.vocab - 1}, apart by blanks; import it with '
        '--tokenizer for texts'
      )
    return [int(word) for word in words]

  def encode_array(self, text: str) -> np.ndarray:
    return np.array(self.encode(text), np.uint32)

  def decode(self, ids: Sequence[int]) -> str:
    return ' '.join(str(i) for i in ids if i != self.eot)

  def pieces(self, ids: Sequence[int]) -> list[str]:
    return [EOT if i == self.eot else str(i) for i in ids]

  def save(self, folder: Path) -> None:
    write_kind(folder, {'kind': self.kind, 'vocab': self.vocab, 'eot': self.eot})


def train(kind: str, texts: Iterable[str], vocab: int) -> Tokenizer:
  """Returns a tokenizer made from texts, the same for the same texts.

  Args:
    kind: one of TRAINED.
    texts: for 'chars' all the text there will ever be, held-out text included. Where
      they are long, SentencePiece and byte-level BPE learn from an even sample.
    vocab: number of ids; 'chars' and 'bytes' have as many as they need.

  Raises:
    UserError: `vocab` does not suit the text, or the kind is unknown.
  """
  if kind == 'bytes':
    return Bytes()
  if kind == 'chars':
    return Characters(''.join(set().union(*map(set, texts))))
  if kind == 'byte_bpe':
    return ByteLevel.train(even_sample(texts, _BYTE_BPE_SAMPLE), vocab)
  if kind in ('bpe', 'unigram'):
    return SentencePiece.train(kind, texts, vocab)
  raise UserError(f'tokenizer {kind!r} must be one of {", ".join(TRAINED)}')


def open_model(path: str | Path) -> SentencePiece:
  """Returns the tokenizer in a SentencePiece .model file.

  Its documents end with its own <|endoftext|>, else its </s>, else its <s>. Most such
  models normalise text: they do not give back every character.

  Raises:
    UserError: there is no such file, or it is not a SentencePiece model.
  """
  try:
    return SentencePiece(Path(path).read_bytes(), name=str(path))
  except OSError as e:
    raise UserError(f'{path}: can not be read: {e.strerror or e}') from e


# Files by which a folder of others is known: GPT-1's release, GPT-2's, Hugging Face's.
_PAIRS = (
  ('encoder_bpe_40000.json', 'vocab_40000.bpe'),
  ('encoder.json', 'vocab.bpe'),
  ('vocab.json', 'merges.txt'),
)


def open_path(path: str | Path, cleaning: str = 'auto') -> Tokenizer:
  """Returns the tokenizer in a file or folder, whoever wrote it.

  Args:
    path: a folder of `save`, or a workdir that has one; a folder with the vocabulary
      and merges of GPT-1 or GPT-2 as released or as in Hugging Face's; a
      tokenizer.json; a SentencePiece .model.
    cleaning: of GPT-1's, see `gpt1.GPT1`.

  Raises:
    UserError: there is none, or it is damaged or of an unknown kind.
  """
  path = Path(path).expanduser()
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
  try:
    about = json.loads((folder / KIND).read_text(encoding='utf-8'))
    kind = about['kind']
    if kind in ('bpe', 'unigram', 'sentencepiece'):
      model = folder / 'sentencepiece.model'
      return SentencePiece(model.read_bytes(), kind, str(model))
    if kind == 'byte_bpe':
      return ByteLevel.load(folder, about)
    if kind == 'gpt1':
      return GPT1.load(folder, about)
    if kind == 'chars':
      return Characters(about['characters'])
    if kind == 'bytes':
      return Bytes()
    if kind == 'numbers':
      return Numbers(about['vocab'], about['eot'])
  except OSError as e:
    raise UserError(f'{folder}: holds no tokenizer: {e}') from e
  except (ValueError, KeyError, TypeError) as e:
    if isinstance(e, UserError):
      raise
    raise UserError(f'{folder / KIND}: damaged: {e!r}') from e
  raise UserError(f'{folder / KIND}: kind={kind!r} is unknown to this version')


def text_of(tokenizer: Tokenizer, token: int) -> str:
  """Returns the text of a token by itself; where it is part of a character, in hex."""
  text = tokenizer.decode([token])
  if '\ufffd' not in text:
    return text
  if hasattr(tokenizer, 'decode_bytes'):
    return tokenizer.decode_bytes([token]).hex().upper()
  return tokenizer.pieces([token])[0]


def digest(folder: str | Path) -> str:
  """Returns the sha256 of the names and contents of a tokenizer's files."""
  whole = hashlib.sha256()
  for path in sorted(Path(folder).iterdir()):
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    whole.update(f'{path.name} {content}\n'.encode())
  return whole.hexdigest()
