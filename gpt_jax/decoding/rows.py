"""Prompts as rows of a batch: arrays of few shapes, so that calls share programs."""

from collections.abc import Iterator, Sequence

import numpy as np

_ROWS = 64  # of a batch; more prompts make more batches
_SHARED = 1024  # tokens not read again, for which a beginning is read by itself


def power_of_two(n: int) -> int:
  """Returns the least power of two that is n or more: shapes share programs."""
  return 1 << (n - 1).bit_length()


def bucket(n: int) -> int:
  """Returns the power of two, at least 16, that holds n tokens."""
  return max(16, power_of_two(n))


def room_after(length: int, max_new_tokens: int, T: int) -> int:
  """Returns slots for the new tokens after prompts of `length` tokens or more.

  They suffice for the shortest prompt of its bucket, so all prompts in it share a
  program. The last token needs none, since it is not read again.
  """
  P = bucket(length)
  return bucket(min(max_new_tokens, T - (P // 2 if P > 16 else 0)))


def filled(
  texts: Sequence[Sequence[int]], B: int, W: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns ids [B, W] and lengths [B]; rows without a text are empty."""
  length_B = np.zeros(B, np.int32)
  length_B[: len(texts)] = [len(text) for text in texts]
  ids_BW = np.zeros((B, W), np.int32)
  for row, text in zip(ids_BW, texts, strict=False):
    row[: len(text)] = text
  return ids_BW, length_B


def padded(
  texts: Sequence[Sequence[int]], B: int, room: int = 0
) -> tuple[np.ndarray, np.ndarray]:
  """Returns ids and lengths as `filled`, as wide as the bucket of lengths and room."""
  return filled(texts, B, bucket(max(map(len, texts))) + room)


def shared(texts: Sequence[Sequence[int]]) -> int:
  """Returns how many tokens to read once, as all texts begin with them; 0: none.

  There is text left after them. They are rounded down, so that calls share programs,
  and in place of padding, since slots of a cache may have to be positions.
  """
  first, last = min(texts), max(texts)
  most = min(len(first), len(last)) - 1
  C = next((i for i in range(most) if first[i] != last[i]), most)
  step = 1 << max(4, (C.bit_length() - 3))
  C -= C % step
  return C if C * (len(texts) - 1) >= _SHARED else 0


def batches(prompts: Sequence[Sequence[int]], new: int, T: int) -> Iterator[list[int]]:
  """Yields the numbers of prompts that share a batch."""
  groups = {}
  for i, prompt in enumerate(prompts):
    # Rows whose contexts fill up at different tokens cannot share one.
    outgrows = len(prompt) + new - 1 > T
    groups.setdefault(len(prompt) if outgrows else 0, []).append(i)
  for rows in groups.values():
    for at in range(0, len(rows), _ROWS):
      yield rows[at : at + _ROWS]
