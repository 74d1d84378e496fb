"""Words and N-grams of texts as numbers of 64 bits, the same on every machine.

A word is what stands between white space, in lower case; `BARE` words have no
punctuation besides (Brown et al. 2020, appendix C). Two different words have one number
in 2^64 cases, so what is said of numbers is said of words.
"""

import functools
import hashlib
import string
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

LOWER, BARE = 'lower', 'bare'
_MOST, _LONG = 1 << 19, 64  # words that are remembered, some 60 MB; their characters
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, 2^64 over the golden ratio


class _Numbers(dict):
  """word -> its number, computed when it is first asked for; 0: nothing is left."""

  def __init__(self, normal: Callable[[str], str]):
    super().__init__()
    self._normal = normal

  def __missing__(self, word: str) -> int:
    value = number(self._normal(word))
    if len(word) <= _LONG:
      if len(self) >= _MOST:
        self.clear()
      self[word] = value
    return value


def number(word: str) -> int:
  """Returns the number of a word as it stands; 0 of ''."""
  if not word:
    return 0
  digest = hashlib.blake2b(word.encode('utf-8', 'surrogatepass'), digest_size=8)
  return int.from_bytes(digest.digest(), 'little') or 1


class _Punctuation(dict):
  """code point -> None where it is punctuation, for str.translate."""

  def __missing__(self, code: int) -> int | None:
    character = chr(code)
    is_mark = unicodedata.category(character)[0] == 'P'
    self[code] = None if is_mark or character in string.punctuation else code
    return self[code]


_punctuation = _Punctuation()


def bare(word: str) -> str:
  """Returns a word in lower case without punctuation; '' where nothing is left."""
  return word.lower().translate(_punctuation)


@functools.cache
def _numbers(kind: str) -> _Numbers:
  """Returns the numbers of a kind of words, which a process remembers."""
  return _Numbers({LOWER: str.lower, BARE: bare}[kind])


class Words(NamedTuple):
  """The words of several texts, one text after another.

  Attributes:
    numbers: [words], uint64; no 0 among them unless `least` asked for it.
    ends: [texts], where the words of each text end.
    places: [words], which of all pieces between white space each word is.
  """

  numbers: np.ndarray
  ends: np.ndarray
  places: np.ndarray


def words(texts: Sequence[str], kind: str = LOWER, least: int = 0) -> Words:
  """Returns the words of texts.

  Args:
    kind: `LOWER` or `BARE`; words of nothing but punctuation are left out of `BARE`.
    least: a shorter text that has words is filled up to this many by words of 0.
  """
  pieces, ends = [], []
  for text in texts:
    some = text.split()
    if 0 < len(some) < least:
      some += [''] * (least - len(some))
    pieces += some
    ends.append(len(pieces))
  numbers = np.fromiter(map(_numbers(kind).__getitem__, pieces), np.uint64, len(pieces))
  ends = np.array(ends, np.int64)
  if kind == LOWER:
    return Words(numbers, ends, np.arange(len(numbers)))
  places = np.flatnonzero(numbers)
  return Words(numbers[places], np.searchsorted(places, ends), places)


def places(text: str) -> list[tuple[int, int]]:
  """Returns begin and end of each piece that str.split would return."""
  places, end = [], 0
  for piece in text.split():
    begin = text.index(piece, end)
    end = begin + len(piece)
    places.append((begin, end))
  return places


def mixed(numbers: np.ndarray) -> np.ndarray:
  """Returns uint64 numbers with every bit depending on every bit (SplitMix64)."""
  numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return numbers ^ (numbers >> np.uint64(31))


def joined(columns: Sequence[np.ndarray]) -> np.ndarray:
  """Returns one number for several in their order: [..] of columns [..], uint64."""
  total = columns[0].astype(np.uint64)
  for column in columns[1:]:
    total = total * _FACTOR + column
  return mixed(total)


def grams(numbers: np.ndarray, ends: np.ndarray, n: int) -> tuple[np.ndarray, ...]:
  """Returns the numbers of all n-grams of texts, and where each begins.

  Args:
    numbers: [words] of `Words`.
    ends: [texts] of `Words`.

  Returns:
    uint64 [grams], and the index of the first word of each, [grams]. No gram goes from
    one text into the next.
  """
  count = max(0, len(numbers) - n + 1)
  every = joined([numbers[i : i + count] for i in range(n)])
  last = np.repeat(ends, np.diff(ends, prepend=0))[:count] - n  # where one may begin
  begins = np.flatnonzero(np.arange(count) <= last)
  return every[begins], begins
