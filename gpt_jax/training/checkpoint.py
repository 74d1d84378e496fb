"""Checkpoints of a run by Orbax: written whole in the background, or not at all.

Each has a manifest (`training/manifest.py`). What is loaded is compared with it, so a
checkpoint that was damaged is named and the one before it used.
"""

import contextlib
import ctypes
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from gpt_jax.config import UserError
from gpt_jax.files import brief, sync
from gpt_jax.paths import said_by_system
from gpt_jax.training import checksums, manifest, processes, saved
from gpt_jax.training.step import State


class _Handler(ocp.CompositeCheckpointHandler):
  """Writes the manifest into a checkpoint whose items all processes have written.

  Attributes:
    about: what the manifest of the checkpoint being written says, but of files.
  """

  about: dict[str, Any]

  def finalize(self, directory) -> None:
    """Is called by the first process alone, before the folder gets its name."""
    super().finalize(directory)
    manifest.write(pathlib.Path(directory), self.about)


@ocp.args.register_with_handler(_Handler, for_save=True, for_restore=True)
class _Items(ocp.args.Composite):
  """The items of a checkpoint."""


class Checkpoints:
  """The checkpoints of one run: the latest few, and the best by held-out loss.

  On disk, parameters and the rest of the state are separate items, so that a model is
  opened without its optimizer. Trees are per layer, as in `model/gpt.py`.
  """

  def __init__(
    self,
    folder: str | pathlib.Path,
    keep: int = 2,
    best: bool = True,
    run: str = '',
    branch: int | None = None,
  ):
    """Opens `folder` to train, created if missing.

    Args:
      keep: how many of the latest are kept, besides the best.
      best: whether the best is kept too.
      run: the identity of the run's config, `config.identity`; '': any.
      branch: the last of at most so many updates is kept too; None: nothing is.
    """
    self.branch = branch
    self.folder = pathlib.Path(folder).resolve()
    self.keep, self.keep_best, self.run = keep, best, run
    self._recorded = saved.recorded(self.folder)
    self._handler = _Handler()
    self._writer = ocp.AsyncCheckpointer(self._handler)
    self._unread: tuple[int, dict] | None = None  # a save that was not read back yet
    self._first = True
    if jax.process_index() == 0:
      self.folder.mkdir(parents=True, exist_ok=True)
      manifest.clear(self.folder)
    # Held-out losses, in memory: processes agree on what is kept without reading.
    self._nll = saved.losses(self.folder)

  def save(
    self,
    state: State,
    nll: float | None,
    *,
    tensors: dict[str, dict[str, str]] | None = None,
    record: dict[str, list] | None = None,
  ) -> None:
    """Starts to write the state; raises if this write or the previous one failed.

    On a CPU it returns when the state is written. The first state that a process
    writes is read back at once, the last by `wait`.

    Args:
      state: may be donated as soon as this returns.
      nll: held-out loss [nats/token] of these parameters, None where not evaluated
        (then never the best).
      tensors: `checksums.items` of the state, where they are known.
      record: `MetricsLog.mark`, what was logged up to this state.

    Raises:
      UserError: the disk refused, or gives back something else; earlier checkpoints are
        unharmed.
    """
    step, items = int(state.step), checksums.by_item(state)
    self._finish()
    self._handler.about = {
      'step': step,
      'run': self.run,
      'nll': None if nll is None else float(nll),
      'tensors': tensors or checksums.items(state),
      'record': record or {},
    }
    with _reported(self.folder):
      self._writer.save(
        self.folder / str(step),
        args=_Items(**{n: ocp.args.StandardSave(tree) for n, tree in items.items()}),
      )
    self._nll[step] = nll
    self._unread = step, jax.tree.map(saved.read_back_as, items)
    if jax.default_backend() == 'cpu':
      # The copy that is written would take as much memory as the next update, and the
      # writing would take its cores.
      self._finish()
      _return_freed_memory()
    if self._first:
      self.wait()
      self._first = False

  def wait(self) -> None:
    """Returns when the last save is on disk and was read back.

    Raises:
      UserError: it failed, or what is read is not what was saved.
    """
    self._finish()
    if self._unread is None:
      return
    (step, like), self._unread = self._unread, None
    if processes.several_processes():  # the optimizer's state may not fit twice
      like.pop('rest')
    folder = self.folder / str(step)
    for item, tree in like.items():
      try:
        saved.read_item(folder, item, tree)
      except UserError as error:
        raise UserError(
          f'{error}: it was written a moment ago and reads otherwise. Do not trust '
          'this disk or memory; train in a workdir elsewhere'
        ) from error

  def _finish(self) -> None:
    """Waits for the last write, then removes checkpoints that need not be kept."""
    with _reported(self.folder):
      self._writer.wait_until_finished()
      kept = self._kept()
      if jax.process_index() == 0:
        sync(self.folder)
        for step in self._nll.keys() - kept:
          manifest.remove(self.folder, step)
    self._nll = {step: nll for step, nll in self._nll.items() if step in kept}

  def _kept(self) -> set[int]:
    """Returns the checkpoints to keep: the latest few, and the best."""
    best = {self.best()} if self.keep_best and self._nll else set()
    before = [step for step in self.steps() if step <= (self.branch or 0)]
    return {*self.steps()[-self.keep :], *best, *before[-1:]}

  def close(self) -> None:
    """Releases the writer's threads."""
    self._writer.close()

  def steps(self) -> list[int]:
    """Returns the numbers of updates of all checkpoints, ascending."""
    return sorted(self._nll)

  def latest(self) -> int | None:
    """Returns the number of updates of the latest checkpoint, or None."""
    return max(self._nll, default=None)

  def best(self) -> int | None:
    """Returns the number of updates of the checkpoint with the lowest loss, or None."""
    return next(iter(saved.best_first(self._nll)), None)

  def record(self, step: int) -> dict[str, list]:
    """Returns what was logged up to a checkpoint: `MetricsLog.mark`; {}: unknown."""
    about = manifest.read(self.folder / str(step)) if step in self._nll else None
    return about['record'] if about else {}

  def forget_after(self, step: int) -> None:
    """Removes the checkpoints of more than `step` updates."""
    later = [number for number in self._nll if number > step]
    for number in later:
      if jax.process_index() == 0:
        manifest.remove(self.folder, number)
      del self._nll[number]

  def restore(self, step: int, like: State) -> State:
    """Returns the state saved after `step` updates.

    Args:
      step: one of the checkpoints kept.
      like: the shapes of such a state, with shardings that say where it goes; they
        need not be those of the state that was saved.

    Raises:
      saved.Damaged: it is not the one that was saved.
    """
    folder = self.folder / str(step)
    saved.check_files(folder, self.run)
    items = checksums.by_item(like)
    read = {item: saved.read_item(folder, item, tree) for item, tree in items.items()}
    state = like.replace(
      params=read['params'],
      step=jax.device_put(np.int32(step), like.step.sharding),
      **read['rest'],
      **({'ema': read['ema']} if like.ema else {}),
    )
    logged = saved.logged(folder)
    if manifest.read(folder) is None and logged:
      now = checksums.line(checksums.items(state))
      if any(now[name] != logged[name] for name in now):
        raise saved.Damaged(folder, 'its tensors are not those of fingerprints.jsonl')
    return state

  def restore_newest(self, like: State, report: Callable[[str], None]) -> State | None:
    """Returns the state of the newest checkpoint that is whole; None: there was none.

    Newer ones that are damaged are moved aside, and `report` says so.

    Raises:
      UserError: none is whole, but this run has had checkpoints.
    """
    picked = saved.first_whole(
      self.folder,
      self.steps()[::-1],
      lambda step: self.restore(step, like),
      report,
      'going on from',
      self._recorded,
    )
    if picked is None:
      return None
    if later := saved.missing(self.folder, max([picked.step, *picked.passed])):
      report(f'checkpoint {later} is not there, going on from {picked.step}')
    for step in picked.passed:
      if jax.process_index() == 0:
        manifest.set_aside(self.folder, step)
      del self._nll[step]
    folder = self.folder / str(picked.step)
    if manifest.read(folder) is None:
      report(
        f'checkpoint {picked.step} had no manifest; it was compared with '
        f'{saved.compared(folder) or "nothing"} and has one now'
      )
      about = {
        'step': picked.step,
        'run': self.run,
        'nll': self._nll[picked.step],
        'tensors': checksums.items(picked.value),
        'record': {},
      }
      if jax.process_index() == 0:
        manifest.write(folder, about)
    return picked.value


def _return_freed_memory() -> None:
  """Returns the freed memory that glibc keeps to the system (0.7 GB for GPT-1)."""
  with contextlib.suppress(AttributeError):  # other libraries of C have no such call
    ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def _reported(folder: pathlib.Path):
  """Turns what Orbax raises while it writes into a UserError with a remedy."""
  try:
    yield
  except (OSError, ValueError, RuntimeError) as error:
    whole = manifest.whole(folder)
    last = f' The last good one is {folder / str(whole[-1])}.' if whole else ''
    why = said_by_system(str(error)) or brief(error)
    raise UserError(
      f'a checkpoint could not be written to {folder} ({why}).{last} '
      'Free disk space or mend the folder, then run the same command again: it '
      'continues there.'
    ) from error
