"""Texts that may be copies of each other: those that meet in a bucket of MinHash LSH.

A bucket holds the texts whose band of the signature is the same. Buckets are formed a
block at a time: a block holds the records of one shard for one band and some first
bits of the bucket, so that grouping moves few large values and numpy does the rest.

A bucket of n texts has n (n - 1) / 2 pairs. Of a frequent word's hash, and of texts
that are copied a thousand times, that is too many: every text is compared with at most
`window` that stand before it, in the order of its following bands, as in an LSH forest
(Bawa, Condie & Ganesan 2005). So the most alike stand side by side, each bucket has
another order, and the work is linear. What a window leaves out is counted.
"""

import json
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gpt_jax.data.curation import blocks, minhash
from gpt_jax.data.curation.components import PAIR, Scope, distinct

PAIRS, COUNTS = b'p', b'c'  # what a record begins with
_FOLLOW = 8  # following bands that order a bucket whose band is a single hash
_ERRORS = 4  # standard errors that an estimate may be below the threshold


class Plan(NamedTuple):
  """How candidates are found.

  Attributes:
    bands: of a signature.
    rows: hashes of a band.
    threshold: the Jaccard similarity from which texts are copies.
    window: texts of a bucket that a text is compared with, at most.
    scope: which sources are compared.
  """

  bands: int
  rows: int
  threshold: float
  window: int
  scope: Scope

  @property
  def sketch(self) -> int:
    """Bytes of a sketch: where a band is one hash, most that meet are not alike."""
    return minhash.SKETCH if self.rows == 1 else 0

  @property
  def follow(self) -> int:
    """The following bands that order a bucket."""
    return min(self.bands - 1, _FOLLOW if self.rows == 1 else 2)

  @property
  def estimate(self) -> float:
    """The least share of equal bytes of sketches; a copy has less 1 time in 30,000."""
    error = math.sqrt(self.threshold * (1 - self.threshold) / minhash.SKETCH)
    return self.threshold - _ERRORS * error

  def signed(self) -> np.dtype:
    """Returns the type of a text's signature."""
    about = [('order', '<u8'), ('source', '<u4'), ('sketch', 'u1', (self.sketch,))]
    return np.dtype([('bands', '<u8', (self.bands,)), *about])

  def record(self) -> np.dtype:
    """Returns the type of a text in a bucket."""
    about = [('order', '<u8'), ('source', '<u4'), ('sketch', 'u1', (self.sketch,))]
    return np.dtype([('bucket', '<u8'), ('follow', '<u4', (self.follow,)), *about])


def emit(
  plan: Plan, bits: int, shard: int, signed: np.ndarray
) -> Iterator[tuple[bytes, bytes]]:
  """Yields the blocks of a shard's texts by band and first bits of the bucket.

  Args:
    bits: of `blocks.bits_for` all texts.
    signed: [texts] of `Plan.signed`.
  """
  records = np.empty(len(signed), plan.record())
  for name in ('order', 'source', 'sketch'):
    records[name] = signed[name]
  for band in range(plan.bands):
    records['bucket'] = bucket = signed['bands'][:, band]
    following = [(band + 1 + i) % plan.bands for i in range(plan.follow)]
    records['follow'] = signed['bands'][:, following].astype('<u4')
    for key, block in blocks.blocks(bucket, records, bits, shard):
      yield bytes([band]) + key, block


def compare(plan: Plan, key: bytes, values: Iterator[bytes]) -> Iterator[bytes]:
  """Yields the candidates of a key's blocks, and then counts of what was compared."""
  total = {'compared': 0, 'left_out': 0, 'unlike': 0, 'largest': 0}
  sizes = []  # of the buckets of each chunk
  for chunk in blocks.chunks(values, plan.record()):
    buckets, counts = np.unique(chunk['bucket'], return_counts=True)
    sizes.append((buckets, counts))
    total['left_out'] -= _in_windows(counts, plan.window)
    pairs, compared, unlike = _pairs(plan, chunk)
    total['compared'] += compared
    total['unlike'] += unlike
    if len(pairs):
      yield PAIRS + pairs.tobytes()
  buckets, at = np.unique(np.concatenate([b for b, _ in sizes]), return_inverse=True)
  counts = np.zeros(len(buckets), np.int64)
  np.add.at(counts, at, np.concatenate([c for _, c in sizes]))
  total['largest'] = int(counts.max())
  total['left_out'] += sum(n * (n - 1) // 2 for n in counts[counts > 1].tolist())
  yield COUNTS + json.dumps(total).encode()


def _in_windows(counts: np.ndarray, window: int) -> int:
  """Returns how many pairs of buckets of some sizes are within a window."""
  inside = np.minimum(counts.astype(np.int64) - 1, window)
  return int((counts * inside - inside * (inside + 1) // 2).sum())


def _pairs(plan: Plan, records: np.ndarray) -> tuple[np.ndarray, int, int]:
  """Returns candidates among records, `PAIR`, each once.

  Returns:
    With them how many pairs were compared, and how many their sketches ruled out.
  """
  records = records[np.argsort(records['bucket'], kind='stable')]
  again = records['bucket'][1:] == records['bucket'][:-1]
  records = records[np.append(again, False) | np.append(False, again)]
  keys = [records['follow'][:, i] for i in reversed(range(plan.follow))]
  records = records[np.lexsort([records['order'], *keys, records['bucket']])]
  bucket, order, source = (records[name] for name in ('bucket', 'order', 'source'))
  compared, unlike, found = 0, 0, [np.empty(0, PAIR)]
  for step in range(1, plan.window + 1):
    at = np.flatnonzero(bucket[step:] == bucket[:-step])
    if not len(at):
      break
    sources = source[at], source[at + step]
    at = at[plan.scope.compares(order[at], order[at + step], sources)]
    compared += len(at)
    if plan.sketch:
      equal = records['sketch'][at] == records['sketch'][at + step]
      alike = equal.mean(1, dtype=np.float32) >= plan.estimate
      unlike += len(at) - int(alike.sum())
      at = at[alike]
    pairs = np.empty(len(at), PAIR)
    pairs['first'] = np.minimum(order[at], order[at + step])
    pairs['second'] = np.maximum(order[at], order[at + step])
    found.append(pairs)
  return distinct(np.concatenate(found)), compared, unlike
