"""Documents that are equal, or nearly so, found while a text is read.

Two documents are *equal* if they are so letter for letter, and *nearly equal* if the
same letters and digits follow each other in both, whatever the case, blanks and
punctuation, and are 32 bytes or more: of shorter ones, such as '1 + 1' and '1 - 1',
these are too little to tell. A document is kept as two numbers of 64 bits, so that of
10 million documents two different ones are taken for equal one time in 370,000.
"""

import hashlib
import re
from array import array

import numpy as np

LEAST = 32  # bytes of letters and digits of which documents can be nearly equal
_OTHERS = bytes(b for b in range(128) if not chr(b).isalnum())


class Marks:
  """The marks of the documents of one source, 16 bytes each."""

  def __init__(self):
    self._whole, self._letters = array('Q'), array('Q')
    self._open: tuple | None = None
    self._size = 0

  def add(self, text: str, first: bool) -> None:
    """Takes the next part of the documents; `first` where one begins."""
    if first:
      self._close()
      self._open, self._size = (_hash(), _hash()), 0
    letters = letters_of(text)
    self._size += len(letters)
    self._open[0].update(text.encode())
    self._open[1].update(letters)

  def _close(self) -> None:
    if self._open:
      whole, letters = (int.from_bytes(each.digest(), 'little') for each in self._open)
      self._whole.append(whole)
      # Of too few letters the whole text stands for them: no other is near.
      self._letters.append(letters if self._size >= LEAST else whole)
      self._open = None

  def arrays(self) -> tuple[np.ndarray, np.ndarray]:
    """Returns the marks of all documents, [2][documents]: whole texts, and letters."""
    self._close()
    return np.array(self._whole, np.uint64), np.array(self._letters, np.uint64)


def _hash():
  return hashlib.blake2b(digest_size=8)


def letters_of(text: str) -> bytes:
  """Returns the letters and digits of a text, case folded, in UTF-8."""
  kept = text.casefold().encode().translate(None, _OTHERS)
  return kept if kept.isascii() else re.sub(r'[\W_]+', '', kept.decode()).encode()


def copies(marks: np.ndarray) -> np.ndarray:
  """Returns which documents have the mark of an earlier one, booleans."""
  found = np.ones(len(marks), bool)
  found[np.unique(marks, return_index=True)[1]] = False
  return found
