"""Checkpoints of a run by Orbax: written whole in the background, or not at all."""

import contextlib
import ctypes
import math
import pathlib
import re

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from gpt_jax.config import UserError
from gpt_jax.training.step import State


class Checkpoints:
  """The checkpoints of one run: the latest few, and the best by held-out loss.

  On disk, parameters and the rest of the state are separate items, so that a model is
  opened without its optimizer. Trees are per layer, as in `model/gpt.py`.
  """

  def __init__(self, folder: str | pathlib.Path, keep: int = 2, best: bool = True):
    """Opens `folder`, created if missing; keeps the `keep` latest, and the best."""
    self.folder = pathlib.Path(folder).resolve()
    policies = checkpoint_managers
    nll = lambda metrics: metrics['nll']  # noqa: E731
    self.manager = ocp.CheckpointManager(
      self.folder,
      options=ocp.CheckpointManagerOptions(
        best_fn=nll,
        best_mode='min',
        preservation_policy=policies.AnyPreservationPolicy(
          [policies.LatestN(keep)]
          + [policies.BestN(get_metric_fn=nll, reverse=True, n=1)] * best
        ),
        keep_checkpoints_without_metrics=False,
      ),
    )

  def save(self, state: State, nll: float | None) -> None:
    """Starts to write the state; raises if this write or the previous one failed.

    On a CPU it returns when the state is written.

    Args:
      state: may be donated as soon as this returns.
      nll: held-out loss [nats/token] of these parameters, None where not evaluated
        (then never the best).

    Raises:
      UserError: the disk refused; earlier checkpoints are unharmed.
    """
    with _reported(self.folder):
      self.manager.save(
        int(state.step),
        args=ocp.args.Composite(
          params=ocp.args.StandardSave(state.params),
          rest=ocp.args.StandardSave(_rest(state)),
          **({'ema': ocp.args.StandardSave(state.ema)} if state.ema else {}),
        ),
        metrics={'nll': math.inf if nll is None else nll},
      )
    if jax.default_backend() == 'cpu':
      # The copy that is written would take as much memory as the next update, and the
      # writing would take its cores.
      self.wait()
      _return_freed_memory()

  def wait(self) -> None:
    """Returns when the last save is on disk; raises UserError if it failed."""
    with _reported(self.folder):
      self.manager.wait_until_finished()

  def close(self) -> None:
    """Releases the writer's threads."""
    self.manager.close()

  def steps(self) -> list[int]:
    """Returns the numbers of updates of all checkpoints kept, ascending."""
    return sorted(self.manager.all_steps())

  def latest(self) -> int | None:
    """Returns the number of updates of the latest checkpoint, or None."""
    return self.manager.latest_step()

  def best(self) -> int | None:
    """Returns the number of updates of the checkpoint with the lowest loss, or None."""
    return self.manager.best_step()

  def forget_after(self, step: int) -> None:
    """Removes the checkpoints of more than `step` updates."""
    for later in self.steps():
      if later > step:
        self.manager.delete(later)

  def restore(self, step: int, like: State) -> State:
    """Returns the state saved after `step` updates.

    Args:
      step: one of the checkpoints kept.
      like: the shapes of such a state, with shardings that say where it goes; they
        need not be those of the state that was saved.
    """
    restored = self.manager.restore(
      step,
      args=ocp.args.Composite(
        params=ocp.args.StandardRestore(like.params),
        rest=ocp.args.StandardRestore(_rest(like)),
        **({'ema': ocp.args.StandardRestore(like.ema)} if like.ema else {}),
      ),
    )
    return like.replace(
      params=restored['params'],
      step=jax.device_put(np.int32(step), like.step.sharding),
      **restored['rest'],
      **({'ema': restored['ema']} if like.ema else {}),
    )

  def restore_params(self, step: int, like: dict, *, averaged: bool) -> dict:
    """Returns only the parameters saved after `step` updates, on the first device.

    Args:
      step: one of the checkpoints kept.
      averaged: whether to return their moving average, which the run must have kept.
    """
    item = 'ema' if averaged else 'params'
    args = ocp.args.Composite(**{item: ocp.args.StandardRestore(_here(like))})
    return self.manager.restore(step, args=args)[item]


def done(workdir: str | pathlib.Path, folder: str = 'checkpoints') -> int:
  """Returns the updates of the latest checkpoint of a workdir; 0 if there is none."""
  names = [path.name for path in (pathlib.Path(workdir) / folder).glob('*')]
  return max((int(name) for name in names if name.isdigit()), default=0)


def _return_freed_memory() -> None:
  """Returns the freed memory that glibc keeps to the system (0.7 GB for GPT-1)."""
  with contextlib.suppress(AttributeError):  # other libraries of C have no such call
    ctypes.CDLL(None).malloc_trim(0)


def _rest(state: State) -> dict:
  """Returns what a state holds besides parameters and their average."""
  guard = {} if state.guard is None else {'guard': state.guard}
  return {'opt_state': state.opt_state, **guard}


@contextlib.contextmanager
def _reported(folder: pathlib.Path):
  """Turns what Orbax raises while it writes into a UserError with a remedy."""
  try:
    yield
  except (OSError, ValueError, RuntimeError) as error:
    saved = sorted(int(p.name) for p in folder.glob('*') if p.name.isdigit())
    last = f' The last good one is {folder / str(saved[-1])}.' if saved else ''
    reason = re.sub(r'\s+', ' ', str(error))
    reason = reason if len(reason) < 200 else f'... {reason[-200:]}'
    raise UserError(
      f'a checkpoint could not be written to {folder} ({reason}).{last} Free disk '
      'space or mend the folder, then run the same command again: it continues there.'
    ) from error


def _here(tree):
  """Returns the shapes of a tree, placed on the first device."""
  sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
  )
