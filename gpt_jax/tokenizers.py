"""Tokenizers: text to ids and back, behind one small protocol.

`train` makes one, `open_model` reads a SentencePiece file, `load` opens a folder that
`save` wrote. Ids are 0 .. vocab - 1; `eot`, the end-of-text token, is one of them and
stands before every document of a token file.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import sentencepiece

from gpt_jax.config import UserError

EOT = '<|endoftext|>'
_ABOUT = 'kind.json'  # the file of a tokenizer folder that says what is in it
# SentencePiece keeps positions within a sentence in 16 bits, hence short chunks; and
# its BPE trainer takes about 60 bytes of memory for each character.
_CHUNK = 8192
_SAMPLE = 6 << 20


class Tokenizer(Protocol):
  """What every tokenizer offers.

  Attributes:
    kind: 'bpe', 'unigram', 'sentencepiece', 'chars' or 'bytes'.
    vocab: number of ids, special ones included.
    eot: id of the end-of-text token.
  """

  kind: str
  vocab: int
  eot: int

  def encode(self, text: str) -> list[int]:
    """Returns the ids of a text; never `eot`, whatever the text looks like.

    A lone surrogate, which has no UTF-8, is read as U+FFFD.
    """

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of ids; `eot` is '', bytes that are not UTF-8 are U+FFFD."""

  def pieces(self, ids: Sequence[int]) -> list[str]:
    """Returns a readable form of each id."""

  def save(self, folder: Path) -> None:
    """Writes the tokenizer into a folder, for `load`."""


class SentencePiece:
  """A SentencePiece model.

  Models trained here lose nothing: decode(encode(text)) == text.
  """

  def __init__(self, model: bytes, kind: str = 'sentencepiece', name: str = 'model'):
    """Opens the bytes of a .model file.

    Raises:
      UserError: `model` is not one, or has no token that can end a text.
    """
    self.kind = kind
    self._model = model
    try:
      self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
      self.vocab = self._processor.vocab_size()
    except (RuntimeError, ValueError) as e:
      raise UserError(f'{name}: not a SentencePiece model ({e})') from e
    if not self.vocab:
      raise UserError(f'{name}: not a SentencePiece model (it has no pieces)')
    p = self._processor
    named = p.piece_to_id(EOT)
    ends = [i for i in (named, p.eos_id(), p.bos_id()) if i >= 0 and p.is_control(i)]
    if not ends:
      raise UserError(
        f'{name}: has no {EOT}, </s> or <s> among its control pieces, one of which '
        'must stand between documents; train it with one'
      )
    self.eot = ends[0]
    # The model writes a space as U+2581, so a U+2581 of the text goes in as bytes.
    mark = [p.piece_to_id(f'<0x{byte:02X}>') for byte in '\u2581'.encode()]
    self._mark = mark if all(p.is_byte(i) for i in mark) else []

  def encode(self, text: str) -> list[int]:
    text = _encodable(text)
    if '\u2581' not in text or not self._mark:
      return self._processor.encode(text)
    ids = []
    for run in text.split('\u2581'):
      ids += self._processor.encode(run) + self._mark
    return ids[: -len(self._mark)]

  def decode(self, ids: Sequence[int]) -> str:
    return self._processor.decode([int(i) for i in ids])

  def pieces(self, ids: Sequence[int]) -> list[str]:
    return [self._processor.id_to_piece(int(i)) for i in ids]

  def save(self, folder: Path) -> None:
    _write_about(folder, {'kind': self.kind})
    (folder / 'sentencepiece.model').write_bytes(self._model)


class Characters:
  """One id for each character of a known set, in the order of their code points."""

  kind = 'chars'

  def __init__(self, characters: str):
    self._characters = characters
    self._ids = {c: i for i, c in enumerate(characters)}
    self.eot = len(characters)
    self.vocab = len(characters) + 1

  def encode(self, text: str) -> list[int]:
    """Returns the ids of a text.

    Raises:
      UserError: a character is not in the set.
    """
    try:
      return [self._ids[c] for c in text]
    except KeyError as e:
      character = e.args[0]
      raise UserError(
        f'character {character!r} (U+{ord(character):04X}) at position '
        f'{text.index(character)} is not among the {self.eot} that this tokenizer '
        'knows; leave it out, or train with --config.data.tokenizer=bpe or bytes'
      ) from None

  def decode(self, ids: Sequence[int]) -> str:
    return ''.join(self._characters[i] for i in ids if i != self.eot)

  def pieces(self, ids: Sequence[int]) -> list[str]:
    return [EOT if i == self.eot else self._characters[i] for i in ids]

  def save(self, folder: Path) -> None:
    _write_about(folder, {'kind': self.kind, 'characters': self._characters})


class Bytes:
  """The 256 bytes of UTF-8, and `eot`."""

  kind = 'bytes'
  eot = 256
  vocab = 257

  def encode(self, text: str) -> list[int]:
    return list(_encodable(text).encode())

  def decode(self, ids: Sequence[int]) -> str:
    return bytes(i for i in ids if i != self.eot).decode(errors='replace')

  def pieces(self, ids: Sequence[int]) -> list[str]:
    return [EOT if i == self.eot else _show_byte(i) for i in ids]

  def save(self, folder: Path) -> None:
    _write_about(folder, {'kind': self.kind})


def train(kind: str, texts: Iterable[str], vocab: int) -> Tokenizer:
  """Returns a tokenizer made from texts, the same for the same texts.

  Args:
    kind: 'bpe' or 'unigram' (SentencePiece), 'chars' or 'bytes'.
    texts: for 'chars' all the text there will ever be, held-out text included.
    vocab: number of ids, of 'bpe' and 'unigram'.

  Raises:
    UserError: `vocab` does not suit the text, or the kind is unknown.
  """
  if kind == 'bytes':
    return Bytes()
  if kind == 'chars':
    return Characters(''.join(sorted(set().union(*map(set, texts)))))
  if kind not in ('bpe', 'unigram'):
    raise UserError(f'tokenizer {kind!r} must be one of bpe, unigram, chars, bytes')
  return SentencePiece(_train_sentencepiece(kind, texts, vocab), kind)


def _train_sentencepiece(kind: str, texts: Iterable[str], vocab: int) -> bytes:
  """Returns a SentencePiece model that loses nothing of any text."""
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(_sample(texts)),
      model_writer=model,
      model_type=kind,
      vocab_size=vocab,
      normalization_rule_name='identity',
      add_dummy_prefix=False,
      remove_extra_whitespaces=False,
      allow_whitespace_only_pieces=True,
      # Pieces of several words: 7 % fewer tokens on python:docs. The unigram trainer
      # gains 6 % but takes seven times as long over it.
      split_by_whitespace=kind == 'unigram',
      byte_fallback=True,
      unk_id=0,
      bos_id=-1,
      eos_id=-1,
      pad_id=-1,
      control_symbols=EOT,
      max_sentence_length=1 << 20,
      num_threads=4,  # fixed, for it changes how sums are rounded
      minloglevel=2,
    )
  except RuntimeError as e:
    raise UserError(_vocab_advice(vocab, str(e))) from e
  return model.getvalue()


def _vocab_advice(vocab: int, message: str) -> str:
  """Returns what to do about an error of SentencePiece's trainer."""
  if found := re.search(r'too high.* value <= (\d+)', message):
    return (
      f'data.vocab={vocab} is too large for this text, which has pieces for '
      f'{found[1]}; use --config.data.vocab={found[1]} or less, or more text'
    )
  if found := re.search(r'smaller than required_chars\. \d+ vs (\d+)', message):
    return (
      f'data.vocab={vocab} is too small: 256 bytes, 2 special tokens and the '
      f'characters of this text are {found[1]}; use --config.data.vocab={found[1]} '
      'or more'
    )
  return f'SentencePiece could not be trained with data.vocab={vocab}: {message}'


def _sample(texts: Iterable[str]) -> list[str]:
  """Returns up to _SAMPLE characters of texts in chunks, spread evenly over them."""
  kept, size, every = [], 0, 1
  for i, chunk in enumerate(_chunks(texts)):
    if i % every == 0:
      kept.append(chunk)
      size += len(chunk)
    if size > _SAMPLE:
      kept, every = kept[::2], every * 2
      size = sum(map(len, kept))
  return kept


def _chunks(texts: Iterable[str]) -> Iterator[str]:
  """Yields texts in chunks that a SentencePiece trainer can count in."""
  for text in texts:
    for start in range(0, len(text), _CHUNK):
      yield _encodable(text[start : start + _CHUNK])


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


def load(folder: str | Path) -> Tokenizer:
  """Returns the tokenizer that `save` wrote into a folder.

  Raises:
    UserError: there is none, or a file of it is missing or damaged.
  """
  folder = Path(folder)
  try:
    about = json.loads((folder / _ABOUT).read_text(encoding='utf-8'))
    kind = about['kind']
    if kind in ('bpe', 'unigram', 'sentencepiece'):
      model = folder / 'sentencepiece.model'
      return SentencePiece(model.read_bytes(), kind, str(model))
    if kind == 'chars':
      return Characters(about['characters'])
    if kind == 'bytes':
      return Bytes()
  except OSError as e:
    raise UserError(f'{folder}: holds no tokenizer: {e}') from e
  except (ValueError, KeyError, TypeError) as e:
    if isinstance(e, UserError):
      raise
    raise UserError(f'{folder / _ABOUT}: damaged: {e!r}') from e
  raise UserError(f'{folder / _ABOUT}: kind={kind!r} is unknown to this version')


def digest(folder: str | Path) -> str:
  """Returns the sha256 of the names and contents of a tokenizer's files."""
  whole = hashlib.sha256()
  for path in sorted(Path(folder).iterdir()):
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    whole.update(f'{path.name} {content}\n'.encode())
  return whole.hexdigest()


def _write_about(folder: Path, about: dict) -> None:
  """Writes the file that says what a tokenizer folder holds."""
  Path(folder).mkdir(parents=True, exist_ok=True)
  text = json.dumps(about, ensure_ascii=True, indent=1) + '\n'
  (Path(folder) / _ABOUT).write_text(text, encoding='utf-8')


def _encodable(text: str) -> str:
  """Returns the text with its lone surrogates replaced by U+FFFD."""
  try:
    text.encode()
    return text
  except UnicodeEncodeError:
    return re.sub('[\ud800-\udfff]', '\ufffd', text)


def _show_byte(byte: int) -> str:
  """Returns the character of a printable ASCII byte, else its number as <0xNN>."""
  return chr(byte) if 32 < byte < 127 else f'<0x{byte:02X}>'
