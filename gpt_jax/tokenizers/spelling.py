"""The bytes that ids write, one after another: how `decode` puts texts together."""

import dataclasses
import os
import re
from collections.abc import Sequence

import numpy as np

from gpt_jax.tokenizers.protocol import Tokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class Spelling:
  """What each id of a tokenizer writes, by what stands before it.

  There are one or two contexts; 0 is the beginning of a text. In the other one words
  are joined by a blank: SentencePiece and numbers after the first, GPT-1 after a closed
  word.

  Attributes:
    bytes: of each context and id.
    then_CV: int, the context after each id, by the one before it.
  """

  bytes: tuple[tuple[bytes, ...], ...]
  then_CV: np.ndarray

  def context(self, ids: Sequence[int]) -> int:
    """Returns the context after a text."""
    at = 0
    for i in ids:
      at = int(self.then_CV[at, i])
    return at

  def spelled(self, ids: Sequence[int]) -> bytes:
    """Returns the bytes of a text: `decode` gives them as characters."""
    at, written = 0, []
    for i in ids:
      written.append(self.bytes[at][i])
      at = int(self.then_CV[at, i])
    return b''.join(written)


def spelling(tokenizer: Tokenizer) -> Spelling:
  """Returns what the ids of a tokenizer write, found out by decoding.

  It holds for every tokenizer whose `decode` joins what ids write, at most with blanks
  that depend on the id before. Differs: SentencePiece reads no character across a
  control piece, which writes nothing.
  """
  decode, ids = tokenizer.decode, range(tokenizer.vocab)
  if hasattr(tokenizer, 'decode_bytes'):
    alone = tuple(tokenizer.decode_bytes([i]) for i in ids)
    return Spelling((alone,), np.zeros((1, len(ids)), int))
  alone = [decode([i]) for i in ids]
  # An id which is written in another way after itself.
  joined = (i for i in ids if alone[i].strip() and decode([i, i]) != 2 * alone[i])
  word = next(joined, None)
  if word is None:
    return Spelling((_written(tokenizer, alone),), np.zeros((1, len(ids)), int))
  blank = _added(decode, [word], [word])
  later = [_added(decode, [word], [i]) for i in ids]
  then_CV = np.array(
    [
      [_added(decode, [*before, i], [word]) == blank for i in ids]
      for before in ([], [word])
    ],
    int,
  )
  contexts = _written(tokenizer, alone), _written(tokenizer, later)
  return Spelling(contexts, then_CV)


def _added(decode, before: list[int], ids: list[int]) -> str:
  """Returns what ids add to the text of those before."""
  text, whole = decode(before), decode([*before, *ids])
  return whole[len(os.path.commonprefix((text, whole))) :]


def _written(tokenizer: Tokenizer, texts: list[str]) -> tuple[bytes, ...]:
  """Returns the bytes of the ids' texts; of SentencePiece's bytes those bytes."""
  written = [text.encode() for text in texts]
  for i in tokenizer.unknown:
    if byte := re.fullmatch('<0x([0-9A-F]{2})>', tokenizer.pieces([i])[0]):
      written[i] = bytes.fromhex(byte[1])
  return tuple(written)
