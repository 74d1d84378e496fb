"""Tokenizers: text to ids and back, behind one small protocol.

`make` gives the one that a config names: trained on texts, or opened from files.
`load` opens a folder that `save` wrote. Ids are 0 .. vocab - 1; `eot`, the
end-of-text token, is one of them and stands before every document of a token file.
BPE of GPT-1 and GPT-2 is in gpt_jax/bpe.py; SentencePiece, characters and bytes are
here.
"""

import hashlib
import io
import json
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import sentencepiece

from gpt_jax.bpe import EOT, GPT1, KIND, ByteLevel, encodable, read, write_kind
from gpt_jax.config import UserError

TRAINED = 'bpe', 'unigram', 'byte_bpe', 'chars', 'bytes'  # kinds made from texts
# SentencePiece's trainer keeps positions within a sentence in 16 bits, hence short
# chunks; and its BPE takes about 60 bytes of memory for each character.
_CHUNK = 8192
_SAMPLE = 6 << 20
_BYTE_BPE_SAMPLE = 32 << 20
_RUN = 2048  # characters that SentencePiece's BPE encodes at once, about


class Tokenizer(Protocol):
  """What every tokenizer offers.

  Attributes:
    kind: 'bpe', 'unigram', 'sentencepiece', 'byte_bpe', 'gpt1', 'chars' or 'bytes'.
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


class SentencePiece:
  """A SentencePiece model.

  Models trained here lose nothing: decode(encode(text)) == text.
  """

  def __init__(self, model: bytes, kind: str = 'sentencepiece', name: str = 'model'):
    """Opens the bytes of a .model file.

    Args:
      model: the bytes.
      kind: 'bpe' and 'unigram' are trained here; 'sentencepiece' is anything else.
      name: of the file, for errors.

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
    ids = range(self.vocab)
    self.unknown = frozenset(i for i in ids if p.is_byte(i) or p.is_unknown(i))
    # The model writes a space as U+2581, so a U+2581 of the text goes in as bytes.
    mark = [p.piece_to_id(f'<0x{byte:02X}>') for byte in '\u2581'.encode()]
    self._mark = mark if all(p.is_byte(i) for i in mark) else []
    self._within = None
    if kind == 'bpe':
      pieces = (p.id_to_piece(i).replace('\u2581', ' ') for i in ids)
      self._within = {piece[i : i + 2] for piece in pieces for i in range(len(piece))}

  def encode(self, text: str) -> list[int]:
    text = encodable(text)
    if '\u2581' not in text or not self._mark:
      return self._encode(text)
    ids = []
    for run in text.split('\u2581'):
      ids += self._encode(run) + self._mark
    return ids[: -len(self._mark)]

  def _encode(self, text: str) -> list[int]:
    if self._within is None or len(text) <= _RUN:
      return self._processor.encode(text)
    ids = []
    for run in self._runs(text):
      ids += self._processor.encode(run)
    return ids

  def _runs(self, text: str) -> Iterator[str]:
    """Yields a text in runs that no piece of a BPE model reaches across.

    So their ids are the ids of the whole, at over twice the speed: the encoder keeps
    a queue of all pairs of its text, which then stays in the processor's cache.
    """
    start, size, within = 0, len(text), self._within
    while start < size:
      end = start + _RUN
      while end < size and text[end - 1 : end + 1] in within:
        end += 1
      yield text[start:end]
      start = end

  def encode_array(self, text: str) -> np.ndarray:
    return np.array(self.encode(text), np.uint32)

  def sample(self, text: str, alpha: float, seed: int) -> list[int]:
    """Returns the ids of one of the ways to cut a text, for regularisation.

    The same for the same seed. Kudo 2018 (unigram: cuts are drawn with probability
    p ** alpha) and Provilkov et al. 2020 (BPE: merges are dropped with probability
    alpha).
    """
    ids = []

    def draw() -> None:
      sentencepiece.set_random_generator_seed(seed)
      for run in encodable(text).split('\u2581'):
        ids.extend(
          self._processor.encode(run, enable_sampling=True, alpha=alpha, nbest_size=-1)
        )
        ids.extend(self._mark)

    # A thread's generator takes the seed when the thread first draws, and never again.
    thread = threading.Thread(target=draw)
    thread.start()
    thread.join()
    return ids[: len(ids) - len(self._mark)]

  def decode(self, ids: Sequence[int]) -> str:
    return self._processor.decode([int(i) for i in ids])

  def pieces(self, ids: Sequence[int]) -> list[str]:
    return [self._processor.id_to_piece(int(i)) for i in ids]

  def save(self, folder: Path) -> None:
    write_kind(folder, {'kind': self.kind})
    (folder / 'sentencepiece.model').write_bytes(self._model)


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
    shown = (chr(i) if 32 < i < 127 else f'<0x{i:02X}>' for i in ids)
    return [
      EOT if i == self.eot else piece for i, piece in zip(ids, shown, strict=True)
    ]

  def save(self, folder: Path) -> None:
    write_kind(folder, {'kind': self.kind})


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
    return ByteLevel.train(_sample(texts, _BYTE_BPE_SAMPLE), vocab)
  if kind in ('bpe', 'unigram'):
    return SentencePiece(_train_sentencepiece(kind, texts, vocab), kind)
  raise UserError(f'tokenizer {kind!r} must be one of {", ".join(TRAINED)}')


def _train_sentencepiece(kind: str, texts: Iterable[str], vocab: int) -> bytes:
  """Returns a SentencePiece model that loses nothing of any text."""
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(_sample(_chunks(texts), _SAMPLE)),
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


def _sample(texts: Iterable[str], limit: int) -> list[str]:
  """Returns texts of about `limit` characters at most, spread evenly over them all."""
  kept, size, every = [], 0, 1
  for i, text in enumerate(texts):
    if i % every == 0:
      kept.append(text)
      size += len(text)
    while size > limit and len(kept) > 1:
      kept, every = kept[::2], every * 2
      size = sum(map(len, kept))
  return kept


def _chunks(texts: Iterable[str]) -> Iterator[str]:
  """Yields texts in chunks that a SentencePiece trainer can count in."""
  for text in texts:
    for start in range(0, len(text), _CHUNK):
      yield encodable(text[start : start + _CHUNK])


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
    cleaning: of GPT-1's, see `bpe.GPT1`.

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
      ids, pairs = read(path / vocab, path / merges)
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
  except OSError as e:
    raise UserError(f'{folder}: holds no tokenizer: {e}') from e
  except (ValueError, KeyError, TypeError) as e:
    if isinstance(e, UserError):
      raise
    raise UserError(f'{folder / KIND}: damaged: {e!r}') from e
  raise UserError(f'{folder / KIND}: kind={kind!r} is unknown to this version')


def digest(folder: str | Path) -> str:
  """Returns the sha256 of the names and contents of a tokenizer's files."""
  whole = hashlib.sha256()
  for path in sorted(Path(folder).iterdir()):
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    whole.update(f'{path.name} {content}\n'.encode())
  return whole.hexdigest()
