"""Checkpoints as they are found: whole or damaged, compared with their manifests."""

import contextlib
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from gpt_jax.config import UserError
from gpt_jax.files import brief
from gpt_jax.training import checksums, manifest, metrics_log, processes


class Damaged(UserError):
  """A checkpoint is not as it was saved.

  Attributes:
    why: the file or tensor, and what is wrong with it.
  """

  def __init__(self, folder: pathlib.Path, why: str):
    """Says of a checkpoint's folder what is wrong."""
    super().__init__(f'{folder} is damaged ({why})')
    self.why = why


class Pick(NamedTuple):
  """The checkpoint that was used of several.

  Attributes:
    value: what was read of it.
    passed: of those that would have come first: what is wrong with each.
  """

  step: int
  value: Any
  passed: dict[int, str]


def restore_params(
  folder: pathlib.Path, step: int, like: dict, *, averaged: bool
) -> dict:
  """Returns only the parameters of a checkpoint, on the first device.

  Args:
    folder: of checkpoints.
    averaged: whether to return their moving average, which the run must have kept.

  Raises:
    Damaged: they are not those that were saved.
  """
  folder = folder.resolve() / str(step)
  check_files(folder)
  here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  like = jax.tree.map(lambda leaf: _placed(leaf, here), like)
  return read_item(folder, 'ema' if averaged else 'params', like)


def check_files(folder: pathlib.Path, run: str = '') -> None:
  """Raises Damaged if sizes, or contents of small files, are not those saved.

  Args:
    run: as in `manifest.fault`.
  """
  why = manifest.fault(folder, run)
  if why := why or manifest.changed_file(folder, manifest.SMALL):
    raise Damaged(folder, why)


def losses(folder: pathlib.Path) -> dict[int, float | None]:
  """Returns the held-out losses of checkpoints by step; None: unknown.

  Of a checkpoint that has lost its manifest the loss is that of the record.
  """
  found, lost = {}, []
  for step in manifest.saved(folder):
    try:
      found[step] = manifest.nll(folder / str(step))
      if found[step] is None and manifest.read(folder / str(step)) is None:
        lost.append(step)
    except UserError:
      found[step] = None
  if lost:
    with contextlib.suppress(UserError):  # damaged: unknown
      for line in metrics_log.read_metrics(folder.parent):
        if line['step'] in lost and 'valid_nll' in line:
          found[line['step']] = line['valid_nll']
  return found


def missing(folder: pathlib.Path, newest: int) -> int:
  """Returns the updates of a checkpoint that the record has after the newest; or 0.

  A kill in the midst of saving it leaves the same as somebody who removed it.
  """
  last = max(metrics_log.steps_logged(folder.parent)[1], default=0)
  return last if last > newest else 0


def best_first(nlls: dict[int, float | None]) -> list[int]:
  """Returns checkpoints by their held-out loss, the later of equals first."""
  return sorted(nlls, key=lambda s: (math.inf if nlls[s] is None else nlls[s], -s))


def recorded(folder: pathlib.Path) -> int:
  """Returns the updates of a checkpoint that there must have been; 0: none.

  A line of fingerprints.jsonl comes before its checkpoint, so only those that other
  lines follow prove one.
  """
  updates, checkpoints = metrics_log.steps_logged(folder.parent)
  last = max(updates, default=0)
  if not folder.exists():
    return last
  return max((step for step in checkpoints if step < last), default=0)


def first_whole(
  folder: pathlib.Path,
  order: Sequence[int],
  read: Callable[[int], Any],
  report: Callable[[str], None],
  uses: str,
  had: int = 0,
) -> Pick | None:
  """Returns the first checkpoint of an order that is whole; None: there was never one.

  Args:
    read: a number of updates -> what is wanted of that checkpoint.
    uses: ends the line of `report` about those that were passed over, before the number
      of the one that is used instead.
    had: updates of a checkpoint that there must have been; 0: none.

  Raises:
    UserError: there are or were checkpoints, and none is whole.
  """
  passed: dict[int, str] = {}
  for step in order:
    try:
      value = read(step)
    except Damaged as error:
      passed[step] = error.why
      continue
    for number, why in passed.items():
      report(f'checkpoint {number} is damaged ({why}), {uses} {step}')
    return Pick(step, value, passed)
  if passed:
    what = '; '.join(f'{number} ({why})' for number, why in passed.items())
    raise UserError(
      f'{folder}: all checkpoints are damaged: {what}. Put them back from a copy, or '
      'train in another workdir'
    )
  if had:
    raise UserError(
      f'{folder} has no checkpoint, but the record beside it says that {had} updates '
      'were done. Put the checkpoints back, or train in another workdir'
    )
  return None


def newest_by_files(
  folder: str | pathlib.Path, report: Callable[[str], None], run: str = ''
) -> None:
  """Moves newer checkpoints aside whose files are not as they were saved.

  For members that must agree on a checkpoint before any of them is restored.

  Raises:
    UserError: none is whole, but this run has had checkpoints.
  """
  folder = pathlib.Path(folder)

  def read(step):
    own = folder / str(step)
    if why := manifest.fault(own, run) or manifest.changed_file(own):
      raise Damaged(own, why)

  order = manifest.saved(folder)[::-1]
  picked = first_whole(folder, order, read, report, 'going on from', recorded(folder))
  for step in picked.passed if picked else ():
    manifest.set_aside(folder, step)


def done(workdir: str | pathlib.Path, folder: str = 'checkpoints') -> int:
  """Returns the updates of a workdir's latest whole checkpoint; 0: there is none."""
  return max(manifest.whole(pathlib.Path(workdir) / folder), default=0)


def verify(folder: pathlib.Path) -> dict[int, str]:
  """Returns what is wrong with each checkpoint of a folder, '' if nothing is.

  All files are read and compared with their SHA-256, and all tensors with their
  fingerprints.
  """
  found = {}
  for step in manifest.saved(folder):
    own = folder.resolve() / str(step)
    found[step] = manifest.fault(own) or manifest.changed_file(own)
    items = [item for item in manifest.ITEMS if (own / item).is_dir()]
    try:
      for item in items if not found[step] else ():
        read_item(own, item, None)
    except Damaged as error:
      found[step] = error.why
  return found


def compared(folder: pathlib.Path) -> str:
  """Returns with what a checkpoint can be compared, in words."""
  if manifest.read(folder):
    return 'its manifest'
  return 'fingerprints.jsonl' if logged(folder) else ''


def read_item(folder: pathlib.Path, item: str, like: Any) -> Any:
  """Returns an item of a checkpoint, compared with what is known of its tensors.

  Args:
    like: shapes and places of its arrays; None: as saved, in the host's memory.

  Raises:
    Damaged: it is not what was saved.
    UserError: its files are as they were saved, but can't be read.
  """
  about = manifest.read(folder)
  handler = ocp.StandardCheckpointHandler()
  try:
    if like is None:
      like = jax.tree.map(read_back_as, handler.metadata(folder / item).tree)
    tree = handler.restore(folder / item, args=ocp.args.StandardRestore(like))
    jax.block_until_ready(tree)
  except Exception as error:  # Orbax, tensorstore, msgpack and json raise many kinds
    if isinstance(error, MemoryError):
      raise
    why = manifest.changed_file(folder)
    if why or about is None:
      raise Damaged(folder, why or f'{item}/: {brief(error)}') from error
    raise UserError(
      f'{folder} can not be read, though its files are those that were saved: {item}/: '
      f'{brief(error)}'
    ) from error
  if about is None:
    # The record has the fingerprints of a state's parameters, and of nothing else.
    expected = (logged(folder) or {}).get('params', {})
    if item != 'params' or expected.keys() != checksums.named(tree).keys():
      return tree
  else:
    expected = about['tensors'].get(item)
    if expected is None:
      raise Damaged(folder, f'{manifest.NAME}: it says nothing of {item}/')
  sums = checksums.tensors(tree)
  for name in sorted(sums.keys() | expected.keys()):
    if sums.get(name) != expected.get(name):
      where = manifest.changed_file(folder)
      raise Damaged(
        folder,
        f'{item}/{name} is not the tensor that was saved{where and "; " + where}',
      )
  return tree


def logged(folder: pathlib.Path) -> dict[str, Any] | None:
  """Returns the fingerprints of a checkpoint in the record beside; None: none."""
  try:
    lines = metrics_log.read_checksums(folder.parent.parent)
  except UserError:  # damaged: nothing to compare with
    return None
  return next((line for line in lines if line['step'] == int(folder.name)), None)


def _placed(leaf: Any, place: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
  """Returns the shape of an array, with where it goes."""
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)


def read_back_as(leaf: Any) -> jax.ShapeDtypeStruct:
  """Returns how to read an array back: by one process in the host's memory."""
  if processes.several_processes():
    return _placed(leaf, leaf.sharding)
  try:
    device = jax.local_devices(backend='cpu')[0]
  except RuntimeError:  # JAX_PLATFORMS leaves it out
    device = jax.local_devices()[0]
  return _placed(leaf, jax.sharding.SingleDeviceSharding(device))
