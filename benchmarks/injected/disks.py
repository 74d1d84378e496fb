"""Disks that are full, and other things that users do to a workdir.

Disks of a chosen size are tmpfs, mounted in a mount namespace of the case's own, which
takes root or user namespaces; where neither is allowed, only the size of a file is
limited.
"""

import contextlib
import ctypes
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.injected import forked, place

ROOT = pathlib.Path(__file__).resolve().parents[2]
_TRAIN = 'train', '--config=run.py'
_MIB = 2**20
# On stderr are progress, what an evaluation gave, and at most one line more.
_PROGRESS = re.compile(r'update \d+|\s*$')
_OWN = re.compile(r'error: |stopping: |interrupted$')


def alone_with_a_disk(folder: pathlib.Path, size: int) -> bool:
  """Mounts a disk of `size` bytes on a folder, for this process and its children only.

  Returns:
    Whether that is allowed.
  """
  libc = ctypes.CDLL(None, use_errno=True)
  user, group = os.getuid(), os.getgid()
  spaces = 0x20000 | (0 if user == 0 else 0x10000000)  # CLONE_NEWNS, CLONE_NEWUSER
  if libc.unshare(spaces):
    return False
  if user:
    pathlib.Path('/proc/self/setgroups').write_text('deny')
    pathlib.Path('/proc/self/uid_map').write_text(f'0 {user} 1')
    pathlib.Path('/proc/self/gid_map').write_text(f'0 {group} 1')
  private = 0x4000 | 0x40000  # MS_REC | MS_PRIVATE: nothing of it is seen outside
  if libc.mount(b'none', b'/', None, private, None):
    return False
  folder.mkdir(parents=True, exist_ok=True)
  options = f'size={size}'.encode()
  return not libc.mount(b'faults', bytes(folder), b'tmpfs', 0, options)


def remount(
  folder: pathlib.Path, *, size: int = 64 * _MIB, reads: bool = False
) -> None:
  """Gives the disk on a folder another size, or makes it one that can only be read."""
  flags = 0x20 | reads  # MS_REMOUNT, MS_RDONLY
  libc = ctypes.CDLL(None, use_errno=True)
  options = f'size={size}'.encode()
  if libc.mount(b'faults', bytes(folder), b'tmpfs', flags, options):
    raise OSError(ctypes.get_errno(), f'{folder} can not be mounted again')


def mountable(folder: pathlib.Path) -> bool:
  """Returns whether a disk can be mounted; to be called in a process of its own."""
  return alone_with_a_disk(folder, _MIB)


def needed(folder: pathlib.Path, mounts: bool) -> dict[str, int]:
  """Returns the bytes that a training takes: of a disk, and of its largest file."""
  workdir = folder / 'needed/w'
  if mounts:
    alone_with_a_disk(folder / 'needed', 64 * _MIB)
  forked.run(folder, *_TRAIN, '--workdir=needed/w')
  stat = os.statvfs(folder / 'needed')
  used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize if mounts else 0
  files = [path.stat().st_size for path in workdir.rglob('*') if path.is_file()]
  return {'disk': used, 'file': max(files)}


def full(
  folder: pathlib.Path, limit: str, size: int, number: int, wanted: dict[str, str]
) -> dict[str, Any]:
  """Trains with too little room, then makes room and runs the same command again.

  Args:
    limit: of what the size is: 'disk' or 'file'.
    size: bytes.
    wanted: what an undisturbed training leaves.

  Returns:
    The exit status, the line of error, how many other lines there were, and how the end
    differs.
  """
  disk = folder / f'full_{limit}_{number}'
  shutil.rmtree(disk, ignore_errors=True)
  before = lambda: None  # noqa: E731
  if limit == 'disk':
    if not alone_with_a_disk(disk, size):
      raise RuntimeError('no disk can be mounted here')
  else:
    disk.mkdir()
    before = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # noqa: E731
  arguments = *_TRAIN, f'--workdir={disk.name}/run_on_it'
  done = forked.run(folder, *arguments, before=before)
  if limit == 'disk':
    remount(disk)
  again = forked.run(folder, *arguments)
  wrong = [f'exit {again.code}: {again.err.strip()[-300:]}'] if again.code else []
  wrong += place.differences(wanted, forked.apart(place.left, disk / 'run_on_it'))
  if limit == 'file':
    shutil.rmtree(disk)
  return {'size': size, 'limit': limit, **said(done, folder), 'differences': wrong}


def said(done: forked.Ended, folder: pathlib.Path) -> dict[str, Any]:
  """Returns the exit status of a command, its own last line, and the number of others.

  Others are lines on stderr that are neither progress nor its own.

  Args:
    folder: is left out where a line names it.
  """
  # A message may have cut a long path from the left.
  text = re.sub(rf'\S*{folder.parent.name}/{folder.name}/', '', done.err)
  lines = [x for x in text.splitlines() if not _PROGRESS.match(x)]
  own = [line for line in lines if _OWN.match(line)]
  stopped = [line for line in done.out.splitlines() if line.startswith('stopped')]
  return {
    'code': done.code,
    'line': (stopped or own[-1:] or [''])[0],
    'foreign': len(lines) - len(own),
    'foreign lines': [line for line in lines if line not in own][:5],
  }


def begun(folder: pathlib.Path, name: str, updates: int = 4) -> forked.Command:
  """Returns a training that has logged some updates."""
  command = forked.Command(folder, *_TRAIN, f'--workdir={name}')
  log = folder / name / 'metrics.jsonl'
  while not command.ended(0.002):
    with contextlib.suppress(OSError):
      if log.read_text().count('\n') >= updates // 2:
        break
  return command


def _ends_the_same(folder, name, wanted) -> bool:
  """Returns whether the same command again ends as an undisturbed training does."""
  done = forked.run(folder, *_TRAIN, f'--workdir={name}')
  found = forked.apart(place.left, folder / name)
  return not done.code and not place.differences(wanted, found)


def _second(folder, wanted):
  first = begun(folder, 'shared')
  done = forked.run(folder, *_TRAIN, '--workdir=shared')
  good = done.code == 1 and 'in use' in done.err
  return done, good and not first.end().code


def _stopped(*numbers: int, code: int):
  def scenario(folder, wanted):
    name = f'stopped_{"_".join(map(str, numbers))}'
    command = begun(folder, name)
    for number in numbers:
      command.send(number)
      while 'stopping' not in command.err() and not command.ended(0.001):
        pass  # two at once would count as one
    done = command.end()
    # It may have been done before the signal came, or before the second one.
    good = done.code in (0, code, 128 + numbers[0])
    return done, good and _ends_the_same(folder, name, wanted)

  return scenario


def _read_only(*arguments: str, new: bool = False, code: int = 1, prints: str = ''):
  """Returns what happens where the disk of a finished workdir can only be read."""

  def scenario(folder, wanted):
    disk = folder / f'read_only_{arguments[0]}_{len(arguments)}_{new}'
    mounted = alone_with_a_disk(disk, 64 * _MIB)
    disk.mkdir(exist_ok=True)
    if not new:
      shutil.copytree(folder / 'interrupted', disk / 'run_on_it')
    if mounted:
      remount(disk, reads=True)
    elif os.getuid():
      for path in [*disk.rglob('*'), disk]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    else:
      return None, True  # root writes everywhere
    done = forked.run(folder, *arguments, f'--workdir={disk.name}/run_on_it')
    return done, done.code == code and prints in done.out

  return scenario


def _by_itself(folder, wanted):
  command = [sys.executable, f'{ROOT}/launch.py', *_TRAIN, '--workdir=by_itself']
  done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
  found = forked.apart(place.left, folder / 'by_itself')
  ended = forked.Ended(done.returncode, done.stdout, done.stderr)
  return ended, not place.differences(wanted, found)


def _removed(folder, wanted):
  command = begun(folder, 'removed')
  shutil.rmtree(folder / 'removed', ignore_errors=True)
  done = command.end()
  return done, done.code == 1


def _is_a_file(folder, wanted):
  (folder / 'file').write_text('')
  done = forked.run(folder, *_TRAIN, '--workdir=file')
  return done, done.code == 1


def _in_a_file(folder, wanted):
  (folder / 'file2').write_text('')
  done = forked.run(folder, *_TRAIN, '--workdir=file2/w')
  return done, done.code == 1


def _brackets(folder, wanted):
  done = forked.run(folder, *_TRAIN, '--workdir=br[x]')
  if done.code == 1:
    return done, not (folder / 'br[x]/checkpoints').exists()
  again = forked.run(folder, 'eval', '--workdir=br[x]')
  return again, not again.code and _ends_the_same(folder, 'br[x]', wanted)


def _home(folder, wanted):
  (folder / 'home').mkdir(exist_ok=True)
  home = lambda: os.environ.update(HOME=str(folder / 'home'))  # noqa: E731
  done = forked.run(folder, *_TRAIN, '--workdir=~/w', before=home)
  made = (folder / 'home/w/run.json').exists()
  return done, made and not (folder / '~').exists()


def _scheme(folder, wanted):
  done = forked.run(folder, *_TRAIN, '--workdir=gs://bucket/w')
  return done, done.code == 1 and not (folder / 'gs:').exists()


def _without_checkpoints(folder, wanted):
  shutil.copytree(folder / 'finished', folder / 'bare')
  shutil.rmtree(folder / 'bare/checkpoints')
  done = forked.run(folder, *_TRAIN, '--workdir=bare')
  return done, done.code == 1 and 'checkpoint' in done.err


def _half_a_record(folder, wanted):
  shutil.copytree(folder / 'interrupted', folder / 'half')
  path = folder / 'half/metrics.jsonl'
  lines = path.read_text().splitlines(keepends=True)
  path.write_text(''.join(lines[: len(lines) // 2]))
  done = forked.run(folder, *_TRAIN, '--workdir=half')
  told = 'metrics.jsonl' in done.out + done.err
  found = forked.apart(place.left, folder / 'half')
  return done, told or not place.differences(wanted, found)


# The first ones are done by the tests.
SCENARIOS: dict[str, Callable] = {
  'two trainings on one workdir': _second,
  'workdir is a file': _is_a_file,
  'workdir removed while it trains': _removed,
  'train, the disk can only be read': _read_only(*_TRAIN),
  'eval, the disk can only be read': _read_only('eval', prints='bits/byte'),
  'train, in a process that is no fork': _by_itself,
  'train anew, the disk can only be read': _read_only(*_TRAIN, new=True),
  'eval of tasks, the disk can only be read': _read_only(
    'eval', '--tasks=lambada', '--data=tasks', '--limit=9', prints='accuracy'
  ),
  'sample, the disk can only be read': _read_only(
    'sample', '--max_new_tokens=2', code=0
  ),
  'SIGTERM': _stopped(signal.SIGTERM, code=128 + signal.SIGTERM),
  'SIGINT': _stopped(signal.SIGINT, code=128 + signal.SIGINT),
  'SIGINT twice': _stopped(signal.SIGINT, signal.SIGINT, code=-signal.SIGINT),
  'workdir in a file': _in_a_file,
  'workdir with [brackets]': _brackets,
  'workdir ~/w': _home,
  'workdir gs://bucket/w': _scheme,
  'checkpoints/ removed': _without_checkpoints,
  'metrics.jsonl cut to its half': _half_a_record,
}


def case(
  folder: pathlib.Path, scenario: str, wanted: dict[str, str]
) -> dict[str, Any] | None:
  """Lets a scenario happen; returns what was said, and whether it is right.

  Args:
    wanted: what an undisturbed training leaves.
  """
  begin = time.monotonic()
  done, right = SCENARIOS[scenario](folder, wanted)
  if done is None:
    return {'scenario': scenario, 'skipped': 'root writes everywhere'}
  about = said(done, folder)
  # What fails says so in one line.
  right = right and not about['foreign'] and (bool(about['line']) or done.code <= 0)
  seconds = round(time.monotonic() - begin, 1)
  return {'scenario': scenario, **about, 'right': right, 'seconds': seconds}
