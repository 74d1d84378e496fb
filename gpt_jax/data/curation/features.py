"""Features of the quality classifier: words hashed to buckets as Spark hashes them.

GPT-3's classifier has features of "Spark's standard tokenizer and HashingTF" (Brown et
al. 2020, appendix A): `Tokenizer` makes lower case and splits at each blank, so that
two blanks in a row have an empty word between them, and `HashingTF` counts words by
MurmurHash3 (Appleby 2011), 32 bits with seed 42, modulo 2^18. There is no sign and no
norm.

Differs: the hash is that of Spark 3 and later. Spark 2, which there was in 2019, hashed
the last one to three bytes of a word in another way; buckets have no meaning, so that
only which words share one changes.
"""

import functools
import itertools
import re
from collections.abc import Iterator

import numpy as np

BUCKETS = 2**18
_SEED = 42
_BLANK = re.compile('[ \t\n\x0b\f\r]')  # \s of Java, which splits the words
_MASK = 0xFFFFFFFF


def words(text: str) -> list[str]:
  """Returns the words of a text as Spark's Tokenizer does.

  As Java's split does, it leaves out empty words at the end, and only there.
  """
  each = _BLANK.split(text.lower())
  if len(each) == 1:
    return each
  while each and not each[-1]:
    each.pop()
  return each


def terms(text: str, ngrams: int = 1) -> Iterator[str]:
  """Returns the words of a text; and, where `ngrams` > 1, words in a row up to so many.

  Words in a row are joined by a blank, which no word has.
  """
  each = words(text)
  rows = (
    ' '.join(each[at : at + n])
    for n in range(2, ngrams + 1)
    for at in range(len(each) - n + 1)
  )
  return itertools.chain(each, rows)


# As many as keep the words of a language, and few enough for small memory.
@functools.lru_cache(1 << 17)
def bucket(term: str) -> int:
  """Returns the bucket of a term, MurmurHash3 modulo 2^18."""
  data = term.encode('utf-8', 'replace')
  whole = len(data) & ~3
  h = _SEED
  for at in range(0, whole, 4):
    h ^= _scrambled(int.from_bytes(data[at : at + 4], 'little'))
    h = (h << 13 | h >> 19) & _MASK
    h = (h * 5 + 0xE6546B64) & _MASK
  h ^= _scrambled(int.from_bytes(data[whole:], 'little'))
  h ^= len(data)
  h = (h ^ h >> 16) * 0x85EBCA6B & _MASK
  h = (h ^ h >> 13) * 0xC2B2AE35 & _MASK
  return (h ^ h >> 16) % BUCKETS


def _scrambled(k: int) -> int:
  """Returns four bytes as they are mixed into the hash."""
  k = k * 0xCC9E2D51 & _MASK
  k = (k << 15 | k >> 17) & _MASK
  return k * 0x1B873593 & _MASK


def buckets(text: str, ngrams: int = 1) -> np.ndarray:
  """Returns the bucket of each term of a text, int32, as often as it occurs."""
  return np.fromiter(map(bucket, terms(text, ngrams)), np.int32)


def counts(text: str, ngrams: int = 1) -> tuple[np.ndarray, np.ndarray]:
  """Returns the buckets of a text, ascending, and how many terms each has."""
  return np.unique(buckets(text, ngrams), return_counts=True)
