"""Tokenizers without a vocabulary to learn: characters, bytes, and ids as numbers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gpt_jax.config import UserError
from gpt_jax.files import MEND, field, parse_json, read_text
from gpt_jax.tokenizers.bpe_files import MOST
from gpt_jax.tokenizers.protocol import EOT, KIND, write_kind
from gpt_jax.tokenizers.texts import encodable


class Characters:
  """One id for each character of a known set.

  Attributes:
    eot: the id after theirs. Of a vocabulary that has an end of text of its own, as
      those trained here have, it is the last entry. Else it is no entry: a model
      neither predicts it nor was trained on it, and token files have none.
  """

  kind = 'chars'
  unknown: frozenset[int] = frozenset()

  def __init__(self, characters: str, name: str = 'characters', *, end: bool = True):
    """Takes the characters in the order of their ids.

    Args:
      name: of the file, for errors.
      end: whether the vocabulary has an end of text after them.

    Raises:
      UserError: one is there twice.
    """
    if len(set(characters)) < len(characters):
      raise UserError(
        f'{name} is damaged: {len(characters) - len(set(characters))} of its '
        f'characters are there twice; {MEND}'
      )
    self._characters, self._end = characters, end
    points = _code_points(characters)
    self._ids = np.argsort(points)
    self._points = points[self._ids]
    self.eot = len(characters)
    self.vocab = len(characters) + end

  def encode_array(self, text: str) -> np.ndarray:
    """Returns the ids of a text; raises UserError if a character is not in the set."""
    points = _code_points(text)
    places = np.searchsorted(self._points, points)
    places[places == self.eot] = 0
    known = self._points[places] == points if self.eot else np.zeros(len(points), bool)
    wrong = np.flatnonzero(~known)
    if len(wrong):
      at = int(wrong[0])
      raise UserError(
        f'character {text[at]!r} (U+{ord(text[at]):04X}) at position {at} is not among '
        f'the {self.eot} that this tokenizer knows; leave it out, or train with '
        '--config.data.tokenizer=bpe or bytes'
      )
    return self._ids[places].astype(np.uint32)

  def encode(self, text: str) -> list[int]:
    return self.encode_array(text).tolist()

  def decode(self, ids: Sequence[int]) -> str:
    return ''.join(self._characters[i] for i in ids if i != self.eot)

  def pieces(self, ids: Sequence[int]) -> list[str]:
    return [EOT if i == self.eot else self._characters[i] for i in ids]

  def save(self, folder: Path) -> None:
    """Writes kind.json."""
    about = {'kind': self.kind, 'characters': self._characters}
    # As files of older versions are, which sorted what they read.
    usual = self._end and self._characters == ''.join(sorted(self._characters))
    write_kind(folder, about if usual else about | {'end': self._end})

  @classmethod
  def load(cls, folder: Path, about: dict) -> 'Characters':
    """Returns what `save` wrote."""
    path = folder / KIND
    characters = field(about, 'characters', str, path)
    if 'end' not in about:
      return cls(''.join(sorted(characters)), str(path))
    return cls(characters, str(path), end=field(about, 'end', bool, path))


def read_characters(path: Path) -> Characters | None:
  """Returns the characters that others list in a .json, None where it lists no such.

  That is a list in the order of ids, or an object of ids by entry; each entry is one
  character, but the last may be <|endoftext|>.

  Raises:
    UserError: it can't be read, or ids are not 0 .. n - 1; or it is a pickle.
  """
  if path.suffix in ('.pkl', '.pickle'):
    raise UserError(
      f'{path}: is a pickle, which runs code, so it is not opened; write the ids by '
      "character in it (of nanoGPT: 'stoi') as JSON, with json.dump, and give that"
    )
  if path.suffix != '.json':
    return None
  value = parse_json(read_text(path, most=MOST), str(path))
  entries = list(value) if isinstance(value, (dict, list)) else []
  if not entries or not all(isinstance(each, str) for each in entries):
    return None
  if isinstance(value, dict):
    if not all(type(i) is int for i in value.values()):
      return None
    entries.sort(key=value.get)
  end = entries[-1] == EOT
  letters = entries[: len(entries) - end]
  if any(len(each) != 1 for each in letters):
    return None
  if isinstance(value, dict) and sorted(value.values()) != [*range(len(value))]:
    raise UserError(
      f'{path}: the ids of its {len(value)} characters must be 0 .. {len(value) - 1}, '
      'each once'
    )
  return Characters(''.join(letters), str(path), end=end)


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

  def __init__(self, vocab: int, eot: int, name: str = 'numbers'):
    """Takes the sizes.

    Args:
      eot: may be `vocab`, an id that the model does not predict.
      name: of the file, for errors.

    Raises:
      UserError: `vocab` is below 1, or `eot` is no id.
    """
    if vocab < 1 or not 0 <= eot <= vocab:
      raise UserError(
        f'{name} is damaged: vocab={vocab} must be above 0, and eot={eot} in 0 .. '
        f'{vocab}; {MEND}'
      )
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
