"""MinHash: signatures of texts that agree as often as the texts are alike.

Of two sets A and B with Jaccard similarity J = |A & B| / |A | B|, a random order of all
elements has the same least element in both with probability J (Broder 1997). A
signature holds the least elements of several orders. A *band* joins `rows` of them: two
texts are candidates if any of `bands` bands is equal in both, which happens with
probability 1 - (1 - J^rows)^bands (Leskovec et al., Mining of Massive Datasets, 3.4).

An element has 32 bits, a hash of a word or of 5 words; an order is multiplication by
an odd number modulo 2^32. That is a bijection, so there are no ties to break.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from gpt_jax.data.curation import grams

VERSION = 1  # of the signatures: other hashes or orders are another version
SHINGLE = 5  # words
SKETCH = 64  # orders besides, of which 8 bits each are kept


def features(texts: Sequence[str], shingles: bool) -> tuple[np.ndarray, np.ndarray]:
  """Returns the elements of texts, uint32 [elements], and where each text's end.

  They may repeat themselves. A text without words has none.

  Args:
    shingles: five words in a row are an element (a shorter text is one element), else
      each word. Differs from Spark's Tokenizer and HashingTF (Brown et al. 2020,
      appendix A): several blanks in a row are one, and words are not thrown together
      in 2^18 buckets.
  """
  words = grams.words(texts, least=SHINGLE if shingles else 0)
  if not shingles:
    return (words.numbers >> np.uint64(32)).astype(np.uint32), words.ends
  numbers, begins = grams.grams(words.numbers, words.ends, SHINGLE)
  elements = (numbers >> np.uint64(32)).astype(np.uint32)
  return elements, np.searchsorted(begins, words.ends)


def orders(count: int) -> np.ndarray:
  """Returns the odd factors of orders, uint32 [count], always the same."""
  digests = [hashlib.blake2b(f'{VERSION} {i}'.encode()).digest() for i in range(count)]
  return np.array([int.from_bytes(each[:4], 'little') | 1 for each in digests], 'u4')


def signatures(elements: np.ndarray, ends: np.ndarray, count: int) -> np.ndarray:
  """Returns the least elements of texts in several orders, uint32 [texts, count].

  Args:
    elements: of `features`.
    ends: of `features`; a text without elements gets 2^32 - 1 everywhere.
  """
  result = np.full((count, len(ends)), 2**32 - 1, np.uint32)
  begins = np.append(0, ends[:-1]).astype(np.int64)
  full = np.flatnonzero(ends > begins)
  if len(full):
    ordered = np.empty_like(elements)
    for i, factor in enumerate(orders(count)):
      np.multiply(elements, factor, out=ordered)
      result[i, full] = np.minimum.reduceat(ordered, begins[full])
  return result.T


def banded(signature: np.ndarray, bands: int, rows: int) -> np.ndarray:
  """Returns a number for each band, uint64 [texts, bands].

  Args:
    signature: [texts, bands * rows or more].
  """
  parts = signature[:, : bands * rows].reshape(len(signature), bands, rows)
  return grams.joined([parts[:, :, i] for i in range(rows)])


def probability(jaccard: float, bands: int, rows: int) -> float:
  """Returns how likely two texts of a similarity are candidates."""
  return 1 - (1 - jaccard**rows) ** bands


def similarities(
  left: tuple[np.ndarray, np.ndarray], right: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
  """Returns the Jaccard similarities of sets in pairs, [pairs].

  Args:
    left: elements, uint32, and where each set's end, [pairs]; no set has one twice.
    right: the same of the other sets.
  """
  sizes = [np.diff(ends, prepend=0) for _, ends in (left, right)]
  tagged = [
    np.repeat(np.arange(len(size), dtype=np.uint64) << np.uint64(32), size) | elements
    for size, (elements, _) in zip(sizes, (left, right), strict=True)
  ]
  both = np.concatenate(tagged)
  both.sort()
  twice = both[1:][both[1:] == both[:-1]] >> np.uint64(32)
  shared = np.bincount(twice.astype(np.int64), minlength=len(sizes[0]))
  return shared / np.maximum(1, sizes[0] + sizes[1] - shared)


def distinct(elements: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns each text's elements once, in ascending order, and where they end."""
  sizes = np.diff(ends, prepend=0)
  tags = np.repeat(np.arange(len(ends), dtype=np.uint64) << np.uint64(32), sizes)
  both = np.sort(tags | elements)
  if len(both):  # np.unique is slower: it makes a hash table
    both = both[np.append(True, both[1:] != both[:-1])]
  counts = np.bincount((both >> np.uint64(32)).astype(np.int64), minlength=len(ends))
  return both.astype(np.uint32), np.cumsum(counts)
