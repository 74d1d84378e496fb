"""Which examples of dialogues each row of a run is, in training and held out."""

from collections.abc import Callable, Iterator

import numpy as np

from gpt_jax.config import UserError
from gpt_jax.config.length import Stage
from gpt_jax.data import windows
from gpt_jax.data.token_files import TokenFile
from gpt_jax.tasks.inputs import Order, padded_length

Part = Callable[[int], np.ndarray]


class Examples:
  """The rows of a token file of dialogues, an example each.

  Attributes:
    lengths: [examples] inputs of each.
  """

  def __init__(self, file: TokenFile, T: int):
    """Raises UserError where an example is longer than T, the context."""
    self.lengths = file.lengths - 1
    longest = int(self.lengths.max())
    if longest > T:
      raise UserError(
        f'an example of {file.path} has {longest} tokens, more than the context of '
        f'model.T={T}; raise model.T, or lower data.dialogues, beyond which a dialogue '
        'is divided, to less than half of it'
      )
    self._starts, self._T = file.starts.astype(np.int64), T

  def training(
    self, sizes: list[Stage], seed: int, part: Part = np.arange
  ) -> Callable[[int], windows.Rows]:
    """Returns rows(step): each example once an epoch, of like lengths together.

    The order is that of `tasks.inputs.Order`, a function of (seed, step): neither hosts
    nor micro-batches change it.

    Args:
      part: number of rows -> the numbers of those to read.
    """
    order = self.order(sizes)

    def rows(step: int) -> windows.Rows:
      chosen, number, T = order.at(seed, step)
      return self._rows(chosen, part(number), T)

    return rows

  def order(self, sizes: list[Stage]) -> Order:
    """Returns the order in which a run reads the examples."""
    return Order(self.lengths, sizes, self._T, 'length')

  def held_out(
    self, rows: int, limit: int = 0, part: Part = np.arange
  ) -> Iterator[windows.Rows]:
    """Yields rows that have every example once, by length; the last may be empty.

    Args:
      rows: of a batch.
      limit: if not 0, about how many inputs to cover, by examples evenly spread.
      part: as in `training`.
    """
    order = np.argsort(self.lengths, kind='stable')
    if limit and limit < self.lengths.sum():
      number = max(1, round(limit / self.lengths.mean()))
      order = order[np.arange(number) * len(order) // number]
    for at in range(0, len(order), rows):
      chosen = order[at : at + rows]
      T = padded_length(int(self.lengths[chosen].max()), self._T)
      yield self._rows(chosen, part(rows), T)

  def _rows(self, chosen: np.ndarray, numbers: np.ndarray, T: int) -> windows.Rows:
    """Returns the rows of a batch of some numbers; those beyond `chosen` are empty."""
    filled = numbers < len(chosen)
    own = chosen[np.minimum(numbers, len(chosen) - 1)]
    starts = np.where(filled, self._starts[own], 0)
    ends = starts + np.where(filled, self.lengths[own], 0)
    return windows.Rows(starts, numbers, None, ends, T)
