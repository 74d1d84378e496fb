"""Records of numpy on their way through `Engine.group`, a block at a time.

A key is some first bits of a hash, and a value a block: the records of some documents
whose hashes begin so. So grouping moves few large values, and numpy does the rest.
"""

from collections.abc import Iterator

import numpy as np

CHUNK = 1 << 18  # records of a key that are looked at together
_PLACE = 8  # bytes before the records of a block, by which blocks are sorted


def bits_for(records: int) -> int:
  """Returns how many first bits are a key, so that about half a chunk shares one."""
  return min(16, max(0, (2 * records - 1).bit_length() - CHUNK.bit_length() + 1))


def parts_for(parts: int, shards: int) -> int:
  """Returns over how many files a group is divided; 0: one for each shard, or 1,024.

  More would be more files to wait for, and fewer would keep workers idle.
  """
  return parts or max(1, min(shards, 1024))


def blocks(
  hashes: np.ndarray, records: np.ndarray, bits: int, place: int
) -> Iterator[tuple[bytes, bytes]]:
  """Yields keys of two bytes, and the block of each.

  Args:
    hashes: uint64, of each record.
    place: by which the blocks of a key are sorted.
  """
  first = hashes >> np.uint64(64 - bits) if bits else np.zeros(len(hashes), np.uint64)
  sorts = np.argsort(first, kind='stable')
  values, begins = np.unique(first[sorts], return_index=True)
  for value, some in zip(values, np.split(sorts, begins[1:]), strict=True):
    key = int(value).to_bytes(2, 'big')
    yield key, place.to_bytes(_PLACE, 'big') + records[some].tobytes()


def chunks(values: Iterator[bytes], kind: np.dtype) -> Iterator[np.ndarray]:
  """Yields the records of a key's blocks, about as many at a time as a chunk."""
  some, size = [], 0
  for value in values:
    some.append(np.frombuffer(value, kind, offset=_PLACE))
    size += len(some[-1])
    if size >= CHUNK:
      yield np.concatenate(some)
      some, size = [], 0
  if some:
    yield np.concatenate(some)
