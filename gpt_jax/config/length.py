"""How long a run is and how large its updates are: steps, tokens, epochs, the ramp."""

import dataclasses
import math
from typing import NamedTuple

from gpt_jax.config.schema import Run


class Stage(NamedTuple):
  """Updates of one size, from one on until the next stage.

  Attributes:
    update: number of the first.
    row: rows of all updates before it.
    rows: of each.
  """

  update: int
  row: int
  rows: int


def stages(
  batch: int, start: int = 0, ramp: int = 0, T: int = 1, most: int = 0
) -> list[Stage]:
  """Returns the sizes of a run's updates, growing as GPT-3's do (section 2.3).

  From `start` to `batch` rows over `ramp` tokens, linearly in the tokens read, by
  multiples of `start` rows. With `most`, an update's size is the one of the sizes that
  is nearest to the line; without, each begins when the line has reached it.

  Args:
    batch: rows of an update in the end.
    start: rows of the first; 0 means `batch`.
    ramp: tokens [of T a row].
    most: sizes, each a program to compile; 0 means all multiples.
  """
  sizes = [Stage(0, 0, start or batch)]
  units = batch // sizes[0].rows
  number = min(most or units, units)
  for i in range(1, number):
    update, row, rows = sizes[-1]
    size = sizes[0].rows * (1 + round(i * (units - 1) / (number - 1)))
    reached = (rows + size) / start / 2 - 1 if most else rows // start
    grown = reached * ramp / (units - 1)  # tokens read when it grows
    updates = max(1, round((grown / T - row) / rows))
    sizes.append(Stage(update + updates, row + updates * rows, size))
  return sizes


def stages_of(run: Run) -> list[Stage]:
  """Returns the sizes of a run's updates, whose model has its context."""
  start, ramp = run.batch_start, run.batch_ramp
  return stages(run.batch, start, ramp, run.model.T, run.batch_stages)


def stage_at(sizes: list[Stage], step: int) -> Stage:
  """Returns the stage of the update that follows `step` updates."""
  return next(stage for stage in reversed(sizes) if stage.update <= step)


def rows_read(sizes: list[Stage], steps: int) -> int:
  """Returns how many rows all of the first `steps` updates have."""
  stage = stage_at(sizes, steps)
  return stage.row + (steps - stage.update) * stage.rows


def updates_for(sizes: list[Stage], rows: int) -> int:
  """Returns the fewest updates that have at least so many rows, of 1 or more."""
  stage = next(stage for stage in reversed(sizes) if stage.row < rows)
  return stage.update + -(-(rows - stage.row) // stage.rows)


def tokens_read(run: Run, steps: int | None = None) -> int:
  """Returns how many tokens a run trains on: in all, or in its first `steps`."""
  steps = run.steps if steps is None else steps
  return rows_read(stages_of(run), steps) * run.model.T


def resolved(run: Run, text: int = 0) -> Run:
  """Returns a run whose steps are those that its tokens or epochs need.

  They are the fewest that read at least so many. With epochs they stay 0 where the text
  is not known.

  Args:
    text: tokens of an epoch; 0: not known.
  """
  if run.steps or not (run.tokens or text):
    return run
  # Rounded, as 1152 / 3500 epochs of 3500 tokens are not 1153.
  tokens = run.tokens or math.ceil(round(run.epochs * text, 3))
  rows = -(-tokens // run.model.T)
  return dataclasses.replace(run, steps=updates_for(stages_of(run), rows))
