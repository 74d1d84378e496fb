"""Batches of token windows: `batch(step)` is a pure function of (seed, step).

So a resumed run needs the step number and nothing else, on any number of devices.
"""

import collections
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import flax.struct
import grain
import jax
import numpy as np

from gpt_jax.config import UserError
from gpt_jax.config.length import Stage, stage_at


@flax.struct.dataclass
class Batch:
  """Rows of tokens.

  Attributes:
    ids_BT: int32, inputs.
    y_BT: int32, targets.
    w_BT: float32, the weight of each target in the loss, 0 or 1.
    row_B: int32, the row's number in the whole batch: dropout is drawn by it, so that
      neither devices nor micro-batches change the draw.
    first_BT: int32, where the document of each token begins in its row, which is the
      first token that it sees; None: it sees all before it.
  """

  ids_BT: jax.Array
  y_BT: jax.Array
  w_BT: jax.Array
  row_B: jax.Array
  first_BT: jax.Array | None = None

  @property
  def tokens(self) -> int:
    """Tokens that are computed, with those past the end of the text."""
    return self.w_BT.size


def windows(
  ids: np.ndarray,
  starts: np.ndarray,
  T: int,
  number_B: np.ndarray,
  documents: np.ndarray | None = None,
) -> Batch:
  """Returns the windows of T tokens at `starts`; targets past the end weigh 0.

  Args:
    number_B: each row's number in the whole batch.
    documents: where each begins in `ids`, if they are kept apart.
  """
  place_BT = starts[:, None] + np.arange(T + 1)
  rows = ids[np.minimum(place_BT, len(ids) - 1)].astype(np.int32)
  return Batch(
    ids_BT=rows[:, :-1],
    y_BT=rows[:, 1:],
    w_BT=(place_BT[:, 1:] < len(ids)).astype(np.float32),
    row_B=number_B.astype(np.int32),
    first_BT=None if documents is None else _first(documents, place_BT[:, :-1]),
  )


def _first(documents: np.ndarray, place_BT: np.ndarray) -> np.ndarray:
  """Returns where in its row the document of each token begins, at least 0."""
  begins = np.concatenate([[0], documents.astype(np.int64)])
  begin_BT = begins[np.searchsorted(begins, place_BT, side='right') - 1]
  return np.maximum(begin_BT - place_BT[:, :1], 0).astype(np.int32)


def _random(seed: int, *counters: int) -> np.random.Generator:
  """Returns a generator that is a function of its arguments."""
  return np.random.default_rng((seed, *counters))


class Rows(NamedTuple):
  """The rows of a batch, before they are read.

  Attributes:
    starts: [B] where each begins in the token file.
    numbers: [B] of each in the whole batch.
  """

  starts: np.ndarray
  numbers: np.ndarray


def training_rows(
  tokens: int,
  *,
  T: int,
  sizes: list[Stage],
  seed: int,
  order: str,
  part: Callable[[int], np.ndarray] = np.arange,
) -> Callable[[int], Rows]:
  """Returns rows(step), where the rows of each batch are.

  Args:
    tokens: ids in the token file.
    order: 'epochs': every window once an epoch, in a new shuffle each, the cuts
      between windows moved at random so that no token is always at an edge; 'random':
      every window at a random offset, drawn independently (nanoGPT's way).
    part: number of rows -> the numbers of those to read: all, or a host's own.

  Raises:
    UserError: the text is shorter than one window and the token after it.
  """
  if tokens < T + 1:
    raise UserError(
      f'the training text has {tokens - 1} tokens, fewer than one context of '
      f'model.T={T}; use more text or a smaller model.T'
    )
  number = max(1, (tokens - T) // T)
  shuffled = grain.MapDataset.range(number).shuffle(seed=seed % 2**32).repeat()
  room = tokens - 1 - number * T

  def start(i):
    shift = _random(seed, i // number).integers(0, min(room, T - 1) + 1)
    return shift + shuffled[int(i)] * T

  def rows(step):
    stage = stage_at(sizes, step)
    own = part(stage.rows)
    if order == 'random':
      starts = _random(seed, step).integers(0, tokens - T, stage.rows)[own]
    else:
      first = stage.row + (step - stage.update) * stage.rows
      starts = np.array([start(first + i) for i in own])
    return Rows(starts, own)

  return rows


def training_batches(ids: np.ndarray, *, T: int, **how) -> Callable[[int], Batch]:
  """Returns batch(step), numpy arrays with the rows of T tokens of `training_rows`."""
  rows = training_rows(len(ids), T=T, **how)

  def batch(step):
    starts, numbers = rows(step)
    return windows(ids, starts, T, numbers)

  return batch


def held_out_batches(
  ids: np.ndarray,
  *,
  T: int,
  rows: int,
  limit: int = 0,
  part: Callable[[int], np.ndarray] = np.arange,
  documents: np.ndarray | None = None,
) -> Iterator[Batch]:
  """Yields windows that cover every target once, in order; the last rows may be empty.

  Args:
    ids: the held-out tokens; all but the first are targets.
    limit: if not 0, about how many targets to cover, by windows evenly spread.
    part: as in `training_batches`.
    documents: as in `windows`.
  """
  starts = np.arange(0, len(ids) - 1, T)
  if limit and limit < len(ids) - 1:
    number = max(1, limit // T)
    starts = starts[np.arange(number) * len(starts) // number]
  own = part(rows)
  for i in range(0, len(starts), rows):
    some = starts[i : i + rows]
    # A row that starts at the end has no target.
    empty = np.full(rows - len(some), len(ids) - 1)
    yield windows(ids, np.concatenate([some, empty])[own], T, own, documents)


def prefetched(
  batch: Callable[[int], Batch], first: int, last: int, ahead: int = 4
) -> Iterator[Batch]:
  """Yields batch(first) .. batch(last - 1), made by a thread a few steps ahead."""
  with ThreadPoolExecutor(1) as pool:
    waiting = collections.deque()
    try:
      for step in range(first, last):
        waiting.append(pool.submit(batch, step))
        if len(waiting) > ahead:
          yield waiting.popleft().result()
      while waiting:
        yield waiting.popleft().result()
    finally:
      for future in waiting:
        future.cancel()
