"""The manifest of a checkpoint: what it holds, so that damage is found and named.

A checkpoint is a folder named by its number of updates, with an item of Orbax in each
of params/, rest/ and ema/. Its manifest.json is written last, before the folder gets
its name, and says

  step     the number of updates
  run      the identity of the run's config
  nll      held-out loss [nats/token] of the parameters; null: not measured
  tensors  a fingerprint (`training/checksums.py`) of each tensor, by item
  files    size and SHA-256 of each file of the items
  record   size and SHA-256 of metrics.jsonl, fingerprints.jsonl and samples.txt then

Sizes are compared whenever a checkpoint is looked for; fingerprints, and SHA-256 of the
small files that say how to read the others, when it is loaded; SHA-256 of all when
something does not match. A checkpoint of an older version has none.
"""

import hashlib
import math
import os
import pathlib
import shutil
from collections.abc import Iterable
from typing import Any

from gpt_jax import files
from gpt_jax.config import UserError

NAME = 'manifest.json'
ITEMS = 'params', 'rest', 'ema'
SMALL = 2**16  # bytes of a file that is compared on every load
_ASIDE = '.damaged'  # ends the name of the folder of checkpoints that were moved aside
_UNFINISHED = '.orbax-checkpoint-tmp'
_REMOVED = '.removed'


def write(folder: pathlib.Path, about: dict[str, Any]) -> None:
  """Writes the manifest of a checkpoint whose items are written.

  Args:
    about: all it says but of files.
  """
  about = about | {'files': {name: _file(folder / name) for name in _files(folder)}}
  files.write_json(folder / NAME, about)


def read(folder: pathlib.Path) -> dict[str, Any] | None:
  """Returns the manifest of a checkpoint; None: it has none.

  Raises:
    UserError: it is damaged.
  """
  if not (folder / NAME).exists():
    return None
  about = files.read_json(folder / NAME)
  kinds = {'step': int, 'run': str, 'tensors': dict, 'files': dict, 'record': dict}
  for name, kind in kinds.items():
    files.field(about, name, kind, folder / NAME)
  for item, sums in about['tensors'].items():
    files.of_kind(sums, dict, folder / NAME, name=item)
  for name, mark in [*about['files'].items(), *about['record'].items()]:
    if [type(part) for part in files.of_kind(mark, list, folder / NAME)] != [int, str]:
      raise UserError(f'{folder / NAME} is damaged: {name:.80} has no size and SHA-256')
  for name in about['files']:
    item, *parts = name.split('/')
    if item not in ITEMS or '..' in parts:
      raise UserError(f'{folder / NAME} is damaged: {name:.80} is no file of an item')
  return about


def fault(folder: pathlib.Path, run: str = '') -> str:
  """Returns what is wrong with a checkpoint as far as sizes tell; '': nothing.

  Args:
    run: the identity of the run that it should be of; '': any.
  """
  if not (folder / 'params').is_dir():
    return 'params/: missing'
  try:
    about = read(folder)
  except UserError as error:
    return str(error).split(f'{folder}/', 1)[-1]
  if about is None:
    return ''
  if about['step'] != int(folder.name):
    return f'{NAME}: it is a copy of the checkpoint of update {about["step"]}'
  if run and about['run'] and about['run'] != run:
    return f'{NAME}: it belongs to another run'
  for name, recorded in about['files'].items():
    try:
      size = (folder / name).stat().st_size
    except (OSError, ValueError):  # a NUL in a name is a ValueError
      return f'{name}: missing'
    if size != recorded[0]:
      return f'{name}: {size:,} bytes instead of {recorded[0]:,}'
  return ''


def changed_file(folder: pathlib.Path, most: float = math.inf) -> str:
  """Returns the first file of a checkpoint that is not as it was saved; '': none.

  Args:
    most: bytes; larger files are passed over.
  """
  about = read(folder)
  for name, recorded in (about or {'files': {}})['files'].items():
    if recorded[0] > most:
      continue
    try:
      if _file(folder / name) != recorded:
        return f'{name}: its contents changed since it was saved'
    except OSError as error:
      return f'{name}: {error.strerror}'
  return ''


def saved(folder: pathlib.Path) -> list[int]:
  """Returns the numbers of all checkpoints in a folder, whole or not, ascending."""
  return sorted(int(path.name) for path in folder.glob('*') if path.name.isdigit())


def whole(folder: pathlib.Path) -> list[int]:
  """Returns the numbers of the checkpoints that are whole as far as sizes tell."""
  return [step for step in saved(folder) if not fault(folder / str(step))]


def nll(folder: pathlib.Path) -> float | None:
  """Returns the held-out loss of a checkpoint; None where it was not measured.

  A checkpoint of an older version has it in a file of Orbax's.

  Raises:
    UserError: the file is damaged.
  """
  about = read(folder)
  if about is None:
    old = folder / 'metrics' / 'metrics'
    about = files.read_json(old) if old.exists() else {}
  value = about.get('nll')
  return value if isinstance(value, float) and abs(value) < float('inf') else None


def set_aside(folder: pathlib.Path, step: int) -> pathlib.Path:
  """Moves a checkpoint where none is looked for; returns where it is now."""
  aside = folder.with_name(folder.name + _ASIDE)
  aside.mkdir(exist_ok=True)
  if (aside / str(step)).exists():
    shutil.rmtree(aside / str(step))
  return (folder / str(step)).rename(aside / str(step))


def remove(folder: pathlib.Path, step: int) -> None:
  """Removes a checkpoint; a kill meanwhile leaves no part of one."""
  gone = (folder / str(step)).rename(folder / f'{step}{_REMOVED}')
  shutil.rmtree(gone)


def clear(folder: pathlib.Path) -> None:
  """Removes what saves and removals that were killed have left."""
  for path in folder.glob('*'):
    if _UNFINISHED in path.name or path.name.endswith(_REMOVED):
      shutil.rmtree(path)


def _files(folder: pathlib.Path) -> Iterable[str]:
  """Returns the names of the files of a checkpoint's items, as paths in it."""
  for item in ITEMS:
    for path in sorted((folder / item).rglob('*')):
      if path.is_file():
        yield path.relative_to(folder).as_posix()


def _file(path: pathlib.Path) -> list:
  """Returns size and SHA-256 of a file."""
  with open(path, 'rb') as stream:
    return [
      os.fstat(stream.fileno()).st_size,
      hashlib.file_digest(stream, 'sha256').hexdigest(),
    ]
