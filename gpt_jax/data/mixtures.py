"""Which source each row of a mixture is drawn from: a pure function with an inverse."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gpt_jax.config.mixture import CYCLE


class Order:
  """The order of the sources of a stage.

  The n rows that a source has in `CYCLE` are spread evenly: the i-th is due at
  (i + 1/2) / n of it, and rows are in the order in which they are due. The order then
  repeats, so that any `CYCLE` consecutive rows hold exactly n of the source.
  """

  def __init__(self, rows: Sequence[int]):
    """Makes the order.

    Args:
      rows: of each source in `CYCLE`, to which they add up.
    """
    self.rows = np.array(rows)
    source = np.repeat(np.arange(len(rows)), rows)
    number = np.concatenate([np.arange(n) for n in rows])
    # Two such quotients are equal as floats where they are equal, and not elsewhere.
    due = np.lexsort((source, (number + 0.5) / self.rows[source]))
    self._source, self._number = source[due], number[due]
    self._places = [np.flatnonzero(self._source == k) for k in range(len(rows))]

  def draw(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the source of each row of the stage, and the row's number among its."""
    cycle, place = np.divmod(rows, CYCLE)
    source = self._source[place]
    return source, cycle * self.rows[source] + self._number[place]

  def drawn(self, rows: int) -> np.ndarray:
    """Returns how many of the first `rows` rows each source has."""
    cycles, rest = divmod(rows, CYCLE)
    here = np.bincount(self._source[:rest], minlength=len(self.rows))
    return cycles * self.rows + here

  def row(self, source: int, number: int) -> int:
    """Returns which row of the stage a source's row is: the inverse of `draw`."""
    cycle, place = divmod(number, int(self.rows[source]))
    return cycle * CYCLE + int(self._places[source][place])


class Stage(NamedTuple):
  """Rows with the same weights, from one on until the next stage.

  Attributes:
    row: the first.
    rows: of each source in `CYCLE`.
    files: of each source, the number of the token file that its rows are read from.
  """

  row: int
  rows: tuple[int, ...]
  files: tuple[int, ...]


class Mixture:
  """The rows of a run, each with its token file, and its number among that file's rows.

  A file's rows are numbered through all stages, so that windows are drawn without
  replacement when weights change too. A source that has grown is another file, and
  begins at its row 0.
  """

  def __init__(self, stages: Sequence[Stage]):
    """Counts what each stage draws; `stages` are in their order, from row 0."""
    self._stages = list(stages)
    self._orders = [Order(stage.rows) for stage in stages]
    self._begins = np.array([stage.row for stage in stages])
    number = 1 + max(max(stage.files) for stage in stages)
    self._before = np.zeros((len(stages) + 1, number), int)
    ends = [stage.row for stage in self._stages[1:]]
    for i, end in enumerate(ends):
      self._before[i + 1] = self._before[i] + self._drawn(i, end)
    self._before[-1] = np.iinfo(int).max  # the last stage does not end

  def _drawn(self, i: int, end: int) -> np.ndarray:
    """Returns the rows of each file from the begin of a stage up to a row in it."""
    stage, drawn = self._stages[i], np.zeros_like(self._before[0])
    drawn[list(stage.files)] = self._orders[i].drawn(end - stage.row)
    return drawn

  def draw(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the file of each row of the run, and its number among the file's."""
    files, numbers = np.zeros_like(rows), np.zeros_like(rows)
    of = np.searchsorted(self._begins, rows, 'right') - 1
    for i in np.unique(of):
      here, stage = of == i, self._stages[i]
      source, number = self._orders[i].draw(rows[here] - stage.row)
      files[here] = np.array(stage.files)[source]
      numbers[here] = self._before[i][files[here]] + number
    return files, numbers

  def drawn(self, rows: int) -> np.ndarray:
    """Returns how many of the run's first `rows` rows each file has."""
    i = int(np.searchsorted(self._begins, max(rows - 1, 0), 'right')) - 1
    return self._before[i] + self._drawn(i, rows)

  def row(self, file: int, number: int) -> int:
    """Returns which row of the run a file's row is: the inverse of `draw`."""
    i = int(np.searchsorted(self._before[:, file], number, 'right')) - 1
    stage = self._stages[i]
    source = stage.files.index(file)
    own = number - int(self._before[i, file])
    return stage.row + self._orders[i].row(source, own)
