"""Tokenizers without a vocabulary to learn: characters, bytes, and ids as numbers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gpt_jax.config import UserError
from gpt_jax.files import MEND
from gpt_jax.tokenizers.protocol import EOT, write_kind
from gpt_jax.tokenizers.texts import encodable


class Characters:
  """One id for each character of a known set, in the order of their code points."""

  kind = 'chars'
  unknown: frozenset[int] = frozenset()

  def __init__(self, characters: str, name: str = 'characters'):
    """Takes the characters, in any order.

    Args:
      name: of the file, for errors.

    Raises:
      UserError: one is there twice.
    """
    if len(set(characters)) < len(characters):
      raise UserError(
        f'{name} is damaged: {len(characters) - len(set(characters))} of its '
        f'characters are there twice; {MEND}'
      )
    self._characters = ''.join(sorted(characters))
    self._points = _code_points(self._characters)
    self.eot = len(characters)
    self.vocab = len(characters) + 1

  def encode_array(self, text: str) -> np.ndarray:
    """Returns the ids of a text; raises UserError if a character is not in the set."""
    points = _code_points(text)
    ids = np.searchsorted(self._points, points)
    ids[ids == self.eot] = 0
    known = self._points[ids] == points if self.eot else np.zeros(len(points), bool)
    wrong = np.flatnonzero(~known)
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
