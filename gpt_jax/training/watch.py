"""Watches losses on the host: which members diverged, and which updates are spikes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpt_jax.config import UserError
from gpt_jax.training import checksums
from gpt_jax.training.checkpoint import Checkpoints

_MOST_SPIKES = 20  # updates left out one after another


class Diverged(UserError):
  """No member's loss is finite any more.

  Attributes:
    step: the update whose own loss or gradient is not finite; 0: it is not known.
  """

  def __init__(self, text: str, step: int = 0):
    """Says in `text` what is not finite."""
    super().__init__(text)
    self.step = step


class Spike(Exception):
  """A spike that calls for a roll-back. Carries the update's number, and its loss."""


class Watch:
  """Watches the losses of all members for divergence and spikes.

  Attributes:
    lost: the update at which a member diverged, by the member's number.
  """

  def __init__(
    self,
    checkpoints: Sequence[Checkpoints],
    guard: str,
    diverged: Callable[[int, int], None],
  ):
    self.checkpoints, self.guard, self._diverged = checkpoints, guard, diverged
    self.lost: dict[int, int] = {}
    self.good = 'none yet'  # the last loss that was finite, in words
    self._spikes = [0] * len(checkpoints)  # one after another

  def alive(self) -> list[int]:
    """Returns the members whose losses were finite so far."""
    return [i for i in range(len(self.checkpoints)) if i not in self.lost]

  def look(self, step: int, metrics: list[dict[str, float]]) -> float:
    """Returns the mean loss of the members that have not diverged, after an update.

    Raises:
      Diverged: all members have.
      Spike: the guard rolls back.
    """
    losses = []
    for i in self.alive():
      loss, spike = metrics[i]['loss'], bool(metrics[i].get('spike', 0))
      self._spikes[i] = self._spikes[i] + 1 if spike else 0
      norm = metrics[i].get('grad_norm', 0.0)
      if self._spikes[i] > _MOST_SPIKES or not (spike or math.isfinite(loss + norm)):
        what = 'loss' if spike or not math.isfinite(loss) else "gradient's norm"
        value = loss if what == 'loss' else norm
        self._lose(i, step, f'the {what} of update {step} is {value}', update=step)
        continue
      if spike and self.guard == 'rollback' and self.latest() is not None:
        raise Spike(step, loss)
      losses.append(loss)
      if not spike:
        self.good = f'{loss:.4f} at update {step}'
    return float(np.mean(losses)) if losses else math.nan

  def judge(self, step: int, each: list[dict[str, float]]) -> None:
    """Looks at the metrics on held-out data after an update, of all members.

    Raises:
      Diverged: no member is left whose losses are finite.
    """
    for i in self.alive():
      for name, value in each[i].items():
        if name.endswith('_nll') and not math.isfinite(value):
          self._lose(i, step, f'the held-out loss after update {step} is {value}')
          break

  def check(self, step: int, member: int, weights: Any) -> bool:
    """Returns whether parameters are finite, so that they may be saved.

    Raises:
      Diverged: they are not, and no member is left.
    """
    bad = checksums.not_finite(weights)
    if bad:
      self._lose(member, step, f'{bad} is not finite after update {step}')
    return not bad

  def _lose(self, member: int, step: int, why: str, update: int = 0) -> None:
    """Trains a member no further; raises Diverged if it was the last."""
    self.lost[member] = step
    self._diverged(member, step)
    if not self.alive():
      raise Diverged(
        f'{why}; the last good one was {self.good}. {self._last_checkpoint()} Lower '
        'optim.lr or optim.clip, or lengthen optim.warmup, in a new workdir.',
        update,
      )

  def latest(self) -> int | None:
    """Returns the updates of the first member's latest checkpoint."""
    return self.checkpoints[0].latest()

  def _last_checkpoint(self) -> str:
    if self.latest() is None:
      return 'There is no checkpoint yet.'
    folder = self.checkpoints[0].folder / str(self.latest())
    return f'The last checkpoint is {folder}.'
