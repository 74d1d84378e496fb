"""Batches of token windows: `batch(step)` is a pure function of (seed, step).

So a resumed run needs the step number and nothing else, on any number of devices.
"""

import collections
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import flax.struct
import grain
import jax
import numpy as np

from gpt_jax.config import UserError
from gpt_jax.config.length import Stage, rows_read, stage_at
from gpt_jax.data import shuffle


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
    starts: [B] where each begins in its token file.
    numbers: [B] of each in the whole batch.
    files: [B] the number of its token file; None: there is but one.
    ends: [B] of each example of dialogues, where its inputs end and its last target
      stands; a row that only fills the batch ends where it begins; None: T tokens on.
    T: tokens to which examples are padded; 0: the model's.
  """

  starts: np.ndarray
  numbers: np.ndarray
  files: np.ndarray | None = None
  ends: np.ndarray | None = None
  T: int = 0


class Epochs:
  """Every window of a token file once an epoch, in a new shuffle each.

  The cuts between windows are moved at random, so that no token is always at an edge.

  Attributes:
    number: windows of an epoch.
  """

  def __init__(self, tokens: int, T: int, seed: int, what: str = 'the training text'):
    """Raises UserError where `tokens` ids are less than a window and its last target.

    Args:
      what: has the tokens, for the error.
    """
    if tokens < T + 1:
      raise UserError(
        f'{what} has {tokens - 1} tokens, fewer than one context of model.T={T}; use '
        'more text or a smaller model.T'
      )
    self.number = max(1, (tokens - T) // T)
    self._T, self._seed = T, seed
    self._room = tokens - 1 - self.number * T
    shuffled = grain.MapDataset.range(self.number).shuffle(seed=seed % 2**32)
    self._shuffled = shuffled.repeat()

  def start(self, row: int) -> int:
    """Returns where the window of a row from 0 begins in the token file."""
    return self._shift(row // self.number) + self._shuffled[int(row)] * self._T

  def _shift(self, epoch: int) -> int:
    room = min(self._room, self._T - 1)
    return int(_random(self._seed, epoch).integers(0, room + 1))

  def rows_with(self, first: int, last: int, rows: int) -> Iterator[int]:
    """Yields which of the first `rows` rows have inputs among tokens first .. last."""
    for epoch in range(-(-rows // self.number)):
      shift, begin = self._shift(epoch), epoch * self.number
      low, high = (first - shift) // self._T, (last - shift) // self._T
      found = []
      for window in range(max(low, 0), min(high + 1, self.number)):
        for place in shuffle.places(window, self.number, self._seed % 2**32 + epoch):
          if self._shuffled[begin + place] != window:
            raise RuntimeError('grain shuffles in another way than data/shuffle.py')
          found.append(begin + place)
      yield from (row for row in sorted(found) if row < rows)


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
    order: 'epochs': as `Epochs`; 'random': every window at a random offset, drawn
      independently (nanoGPT's way).
    part: number of rows -> the numbers of those to read: all, or a host's own.

  Raises:
    UserError: the text is shorter than one window and the token after it.
  """
  epochs = Epochs(tokens, T, seed)

  def rows(step):
    number = stage_at(sizes, step).rows
    own = part(number)
    if order == 'random':
      starts = _random(seed, step).integers(0, tokens - T, number)[own]
    else:
      first = rows_read(sizes, step)
      starts = np.array([epochs.start(first + i) for i in own])
    return Rows(starts, own)

  return rows


def batch_with(sizes: list[Stage], row: int) -> tuple[int, int]:
  """Returns the batch, from 0, that has a row of the run, and its number in it."""
  stage = next(stage for stage in reversed(sizes) if stage.row <= row)
  further, number = divmod(row - stage.row, stage.rows)
  return stage.update + further, number


def read(
  files: Sequence[tuple[np.ndarray, np.ndarray | None]], rows: Rows, T: int
) -> Batch:
  """Returns the windows of T tokens of some rows.

  Args:
    files: ids and where documents begin, as in `windows`, of each token file.
  """
  if rows.files is None:
    return windows(files[0][0], rows.starts, T, rows.numbers, files[0][1])
  order = np.argsort(rows.files, kind='stable')
  parts = []
  for i in np.unique(rows.files):
    own = order[rows.files[order] == i]
    ids, documents = files[i]
    parts.append(windows(ids, rows.starts[own], T, rows.numbers[own], documents))
  back = np.argsort(order)
  return jax.tree.map(lambda *each: np.concatenate(each)[back], *parts)


def examples(ids: np.ndarray, weights: np.ndarray, rows: Rows) -> Batch:
  """Returns examples of dialogues, padded to `rows.T` tokens with id 0 of weight 0.

  Args:
    ids, weights: of a token file of dialogues.
  """
  place_BT = rows.starts[:, None] + np.arange(rows.T + 1)
  inside_BT = place_BT[:, 1:] <= rows.ends[:, None]
  place_BT = np.minimum(place_BT, len(ids) - 1)
  return Batch(
    ids_BT=np.where(inside_BT, ids[place_BT[:, :-1]], 0).astype(np.int32),
    y_BT=np.where(inside_BT, ids[place_BT[:, 1:]], 0).astype(np.int32),
    w_BT=np.where(inside_BT, weights[place_BT[:, 1:]], 0).astype(np.float32),
    row_B=rows.numbers.astype(np.int32),
  )


def training_batches(ids: np.ndarray, *, T: int, **how) -> Callable[[int], Batch]:
  """Returns batch(step), numpy arrays with the rows of T tokens of `training_rows`."""
  rows = training_rows(len(ids), T=T, **how)

  return lambda step: read([(ids, None)], rows(step), T)


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
