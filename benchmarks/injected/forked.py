"""Commands of launch.py as forks of a process that has imported all that they need.

So a command starts in milliseconds, not in the seconds that importing jax takes. It
does what a process of its own does: jax has no device before the fork, output goes to
files by their descriptors (what libraries in C++ print is in it), and at its end it
waits for threads and runs what is registered for the exit.
"""

import atexit
import contextlib
import json
import os
import pathlib
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

_TICK = 0.003  # seconds between two looks at a process
_LONGEST = 300.0  # seconds of a command that is taken to hang


class Ended(NamedTuple):
  """How a command ended.

  Attributes:
    code: its exit status; of one that a signal ended, minus the signal's number.
  """

  code: int
  out: str
  err: str


def warm() -> None:
  """Imports what the verbs import; jax's devices stay untouched."""
  import gpt_jax.cli.training
  import gpt_jax.runs.benchmark
  import gpt_jax.runs.evaluate
  import gpt_jax.runs.finetune_results
  import gpt_jax.runs.train
  import gpt_jax.sweep.run
  import gpt_jax.sweep.worker  # noqa: F401
  import launch  # noqa: F401


class Command:
  """A command of launch.py at work, in a process group of its own."""

  def __init__(
    self,
    folder: pathlib.Path,
    *arguments: str,
    before: Callable[[], None] = lambda: None,
  ):
    """Starts it.

    Args:
      folder: the working directory.
      before: called in the command's process, first of all.
    """
    self._said = [folder / f'.{os.getpid()}.{time.monotonic_ns()}.{n}' for n in (1, 2)]
    self._code: int | None = None
    self.pid = os.fork()
    if not self.pid:
      _be(folder, self._said, arguments, before)

  def ended(self, within: float = 0.0) -> bool:
    """Returns whether it ended by itself within so many seconds."""
    last = time.monotonic() + within
    while self._code is None:
      pid, status = os.waitpid(self.pid, os.WNOHANG)
      if pid:
        self._code = os.waitstatus_to_exitcode(status)
      elif time.monotonic() >= last:
        return False
      else:
        time.sleep(min(_TICK, max(0.0, last - time.monotonic())))
    return True

  def send(self, number: int) -> None:
    """Sends a signal to it, if it has not ended."""
    if not self.ended():
      os.kill(self.pid, number)

  def kill(self, what: str = 'command', rng: random.Random | None = None) -> None:
    """Sends SIGKILL.

    Args:
      what: to 'command' alone, to 'all' of its processes at once, or to 'worker', a
        random one that it started (nothing happens where there is none).
      rng: draws the worker.
    """
    if self.ended():
      return
    started = descendants(self.pid)
    if what == 'worker':
      killed = [rng.choice(started)] if started else []
    else:
      killed = [self.pid, *(started if what == 'all' else [])]
    for pid in killed:
      with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)

  def err(self) -> str:
    """Returns what it printed on stderr so far."""
    return self._said[1].read_text(errors='replace') if self._said[1].exists() else ''

  def end(self) -> Ended:
    """Returns how it ended, once it has; one that hangs is killed."""
    if not self.ended(_LONGEST):
      self.kill('all')
      self.ended(60)
    # One that is killed at once has not begun to write.
    texts = [p.read_text(errors='replace') if p.exists() else '' for p in self._said]
    for path in self._said:
      path.unlink(missing_ok=True)
    return Ended(self._code, *texts)


def run(folder: pathlib.Path, *arguments: str, **more: Any) -> Ended:
  """Returns how a command of launch.py ended; see `Command`."""
  return Command(folder, *arguments, **more).end()


def apart(function: Callable[..., Any], *given: Any) -> Any:
  """Returns a function's value, a JSON value, computed in a process of its own.

  Raises:
    RuntimeError: it raised, or its process died; carries the traceback.
  """
  process = Apart(function, *given)
  return process.value()


class Apart:
  """A function at work in a process of its own; its value must be a JSON value."""

  def __init__(self, function: Callable[..., Any], *given: Any):
    """Starts it."""
    self.reader, writer = os.pipe()
    self.pid = os.fork()
    if self.pid:
      os.close(writer)
      return
    try:
      os.close(self.reader)
      try:
        adopt()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what threads of Orbax print
        said = {'value': function(*given)}
      except BaseException:  # the process that asked raises it
        said = {'failed': traceback.format_exc()}
      with os.fdopen(writer, 'w') as pipe:
        pipe.write(json.dumps(said))
      for pid in descendants(os.getpid()):  # what a killed command left behind
        with contextlib.suppress(ProcessLookupError):
          os.kill(pid, signal.SIGKILL)
    finally:  # whoever asked may be gone: nothing of it must go on here
      os._exit(0)

  def value(self) -> Any:
    """Returns the function's value, once it is there."""
    with os.fdopen(self.reader) as pipe:
      text = pipe.read()
    os.waitpid(self.pid, 0)
    said = json.loads(text or '{"failed": "its process died"}')
    if 'failed' in said:
      raise RuntimeError(said['failed'])
    return said['value']


def descendants(pid: int) -> list[int]:
  """Returns the processes that a process started, and those that they started."""
  children: dict[int, list[int]] = {}
  for path in pathlib.Path('/proc').glob('[0-9]*/stat'):
    with contextlib.suppress(OSError):
      state, parent = path.read_text().rpartition(')')[2].split()[:2]
      if state != 'Z':
        children.setdefault(int(parent), []).append(int(path.parent.name))
  found, left = [], [pid]
  while left:
    left = [child for each in left for child in children.get(each, [])]
    found += left
  return found


def adopt() -> None:
  """Makes this process the parent of what its commands leave behind (Linux)."""
  import ctypes

  ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def _be(folder, said, arguments, before) -> None:
  """Is the command, in its process; does not return."""
  code: Any = 1
  try:
    os.setsid()
    os.chdir(folder)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for number, path in enumerate(said, 1):
      os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    import launch

    sys.argv = [launch.__file__, *arguments]
    code = 0
    try:
      before()
      launch.main()
    except SystemExit as stop:
      code = stop.code
    except BaseException:  # as the interpreter does
      traceback.print_exc()
      code = 1
    if isinstance(code, str):
      print(code, file=sys.stderr)
      code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
  finally:
    os._exit(code or 0)
