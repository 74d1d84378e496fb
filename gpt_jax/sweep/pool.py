"""Local workers: each trains a run, or several together, in a process of its own."""

import collections
import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from gpt_jax.config import UserError
from gpt_jax.runs.workdir import diverged, in_use
from gpt_jax.sweep.plan import LAUNCH, Entry, Sweep
from gpt_jax.sweep.status import finished
from gpt_jax.sweep.worker import arguments, groups
from gpt_jax.training.loop import Interrupted

_TICK = 0.2  # seconds between two looks at the workers
_SHOWN = 15  # lines of a failed run's log
_PROBE = 'import jax; d = jax.local_devices(); print(d[0].platform, len(d))'
# Becomes the command behind it. The kernel sends that SIGUSR1, at which a run saves,
# when its parent is gone, even by kill -9 (PR_SET_PDEATHSIG is 1; Linux only). It may
# come several times, once for each thread of the parent that inherits it; a second
# SIGTERM would end a run before it has saved.
_FOLLOWS = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGUSR1, 0, 0, 0)
if os.getppid() == int(sys.argv[1]):
  os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclasses.dataclass(frozen=True)
class Slot:
  """The devices of a worker.

  Attributes:
    name: for messages.
    environment: variables that select the devices.
    cores: of the CPU; empty: any.
  """

  name: str
  environment: Mapping[str, str]
  cores: frozenset[int] = frozenset()


def slots(workers: int) -> list[Slot]:
  """Returns a slot for each worker.

  Args:
    workers: 0 means one for each device of an accelerator, or one on a CPU.

  Raises:
    UserError: there are too few devices or cores.
  """
  done = subprocess.run([sys.executable, '-c', _PROBE], capture_output=True, text=True)
  if done.returncode:
    end = '\n'.join(done.stderr.splitlines()[-3:])
    raise UserError(f'jax finds no devices here; see what it says\n{end}')
  platform, count = done.stdout.split()[-2:]
  if platform == 'cpu':
    return cpu_slots(workers or 1)
  return device_slots(platform, int(count), workers or int(count), os.environ)


def cpu_slots(workers: int) -> list[Slot]:
  """Returns slots that share out the cores of this machine."""
  if not hasattr(os, 'sched_getaffinity'):
    return [Slot(f'worker {i}', {}) for i in range(workers)]
  cores = sorted(os.sched_getaffinity(0))
  if workers > len(cores):
    raise UserError(f'--workers={workers} must be at most {len(cores)}, the cores here')
  bounds = [len(cores) * i // workers for i in range(workers + 1)]
  return [
    Slot(f'cores {",".join(map(str, cores[a:b]))}', {}, frozenset(cores[a:b]))
    for a, b in zip(bounds, bounds[1:], strict=False)
  ]


def device_slots(
  platform: str, count: int, workers: int, environment: Mapping[str, str]
) -> list[Slot]:
  """Returns slots that share out the devices of an accelerator, evenly.

  Args:
    platform: 'gpu' or 'tpu'.
    count: devices there are.
    workers: 1 has all devices.
    environment: its CUDA_VISIBLE_DEVICES, if set, names the GPUs.
  """
  if workers > count:
    raise UserError(f'--workers={workers} must be at most {count}, the devices here')
  if workers == 1:
    return [Slot(f'{count} {platform}', {})]
  each = count // workers
  names = [
    name for name in environment.get('CUDA_VISIBLE_DEVICES', '').split(',') if name
  ]
  names = names if platform == 'gpu' and names else [str(i) for i in range(count)]
  if platform == 'tpu' and each > 1:
    raise UserError(
      f'--workers={workers} must be 1 or {count} on a TPU: all chips, or one a worker'
    )
  shares = []
  for i in range(workers):
    own = ','.join(names[i * each : (i + 1) * each])
    chosen = {'CUDA_VISIBLE_DEVICES': own}
    if platform == 'tpu':
      chosen = {
        'TPU_VISIBLE_CHIPS': own,
        'TPU_CHIPS_PER_PROCESS_BOUNDS': '1,1,1',
        'TPU_PROCESS_BOUNDS': '1,1,1',
      }
    shares.append(Slot(f'{platform} {own}', chosen))
  return shares


@dataclasses.dataclass
class _Worker:
  """A process at work on some runs; `begin` is where its part of the log begins."""

  entries: Sequence[Entry]
  slot: Slot
  process: subprocess.Popen
  log: pathlib.Path
  begin: int
  stopped_early: bool = False


class Pool:
  """Workers that train the runs of a sweep.

  Attributes:
    states: of each run by name: waiting, running, finished, 'in use' (by a process
      that is not ours), failed, stopped, or 'stopped early'.
    ends: the last lines of the logs of failed runs, by name.
  """

  def __init__(
    self,
    sweep: Sweep,
    free: Sequence[Slot],
    *,
    retries: int,
    together: int = 1,
    early: Callable[[Entry], bool] = lambda entry: False,
  ):
    """Queues the runs that are not finished.

    Args:
      free: one slot for each worker.
      retries: how often a crashed run is started again.
      together: most runs of one kind that a worker trains in one program; 0: all of a
        kind, divided among the workers.
      early: whether to stop an unfinished run for good; only for runs that are trained
        by themselves.
    """
    self.sweep, self.free, self.early = sweep, collections.deque(free), early
    self.workers = len(free)
    self.states = {e.name: 'waiting' for e in sweep.entries}
    self.ends: dict[str, str] = {}
    self.tries = dict.fromkeys(self.states, retries)
    self.running: list[_Worker] = []
    left = []
    for entry in sweep.entries:
      if finished(entry):
        self.states[entry.name] = 'finished'
      elif early(entry):
        self.states[entry.name] = 'stopped early'
      else:
        left.append(entry)
    self.waiting = collections.deque(groups(left, together, len(free)))

  def work(self, show: Callable[[], None]) -> None:
    """Trains the runs that are left.

    Args:
      show: called from time to time, to show the states.

    Raises:
      Interrupted: by SIGINT or SIGTERM; the workers have saved.
    """
    asked: list[int] = []
    passed_on = 0
    with _signals(asked):
      try:
        while self.running or (self.waiting and not asked):
          while self.free and self.waiting and not asked and self._start():
            pass
          time.sleep(_TICK)
          for worker in list(self.running):
            self._look(worker, bool(asked))
          if len(asked) > passed_on:  # the second time they stop at once
            passed_on = len(asked)
            self._tell(signal.SIGTERM)
          show()
      finally:
        if self.running:  # an error of ours, such as a full disk: leave no one behind
          self._tell(signal.SIGTERM)
          for worker in self.running:
            worker.process.wait()
    if asked:
      raise Interrupted(asked[0])

  def _start(self) -> bool:
    """Starts the first runs that are not in use; returns whether there were any."""
    for _ in range(len(self.waiting)):
      entries = self.waiting.popleft()
      used = [entry for entry in entries if in_use(entry.workdir)]
      if not used:
        slot = self.free.popleft()
        self.running.append(self._started(entries, slot))
        self.states.update({entry.name: 'running' for entry in entries})
        return True
      for entry in used:
        self.states[entry.name] = 'in use'  # left by a sweep that was killed: it saves
      self.waiting.append(entries)
    return False

  def _look(self, worker: _Worker, stopping: bool) -> None:
    code = worker.process.poll()
    if code is None:
      if (
        not (worker.stopped_early or stopping)
        and len(worker.entries) == 1
        and self.early(worker.entries[0])
      ):
        worker.stopped_early = True
        worker.process.send_signal(signal.SIGTERM)
      return
    self.running.remove(worker)
    self.free.append(worker.slot)
    said = worker.log.read_bytes()[worker.begin :].decode(errors='replace')
    again = []
    for entry in worker.entries:
      self.states[entry.name] = self._ended(worker, entry, code, said, stopping)
      if self.states[entry.name] == 'waiting':
        again.append(entry)
    # One by one, so that none of a group fails for another's sake.
    self.waiting.extendleft([entry] for entry in reversed(again))

  def _ended(
    self, worker: _Worker, entry: Entry, code: int, said: str, stopping: bool
  ) -> str:
    """Returns the state of a run whose worker has ended."""
    if finished(entry) and (code == 0 or len(worker.entries) > 1):
      return 'finished'
    if worker.stopped_early:
      return 'stopped early'
    if at := diverged(entry.workdir):
      self.ends[entry.name] = (
        f'{entry.name}: the loss of update {at} is not finite; lower its rate, or '
        f'remove {entry.workdir / "diverged.json"} to have it tried again'
      )
      return 'failed'
    if stopping:
      return 'stopped'
    if len(worker.entries) > 1:
      return 'waiting'
    if self.tries[entry.name] > 0 and not _hopeless(said):
      self.tries[entry.name] -= 1
      return 'waiting'
    how = f'exit status {code}' if code > 0 else f'signal {-code}'
    self.ends[entry.name] = f'{entry.name}: {how}; {worker.log} ends:\n{_end(said)}'
    return 'failed'

  def _started(self, entries: Sequence[Entry], slot: Slot) -> _Worker:
    """Returns a new worker for some runs."""
    folder, first = self.sweep.folder, entries[0]
    logs = folder / 'logs'
    logs.mkdir(exist_ok=True)
    if len(entries) == 1:
      path, what = logs / f'{first.name}.log', first.command
      command = [str(LAUNCH), *first.arguments]
    else:
      path = logs / f'{first.name}_and_{len(entries) - 1}.log'
      what = f'together: {", ".join(entry.name for entry in entries)}'
      command = arguments(folder, entries, self.workers)
    environment = {**os.environ, **slot.environment}
    pinned = bool(slot.cores)
    before = os.sched_getaffinity(0) if pinned else ()
    with open(path, 'ab') as log:
      begin = log.tell()
      log.write(f'--- {slot.name}: {what}\n'.encode())
      log.flush()
      try:
        if pinned:  # is handed down, before the worker counts its cores
          os.sched_setaffinity(0, slot.cores)
        process = subprocess.Popen(
          [*_follower(), sys.executable, *command],
          stdin=subprocess.DEVNULL,
          stdout=log,
          stderr=subprocess.STDOUT,
          env=environment,
          process_group=0,  # so that Ctrl-C reaches it once, from us
        )
      finally:
        if pinned:
          os.sched_setaffinity(0, before)
    return _Worker(entries, slot, process, path, begin)

  def _tell(self, number: int) -> None:
    for worker in self.running:
      worker.process.send_signal(number)


def _end(said: str) -> str:
  """Returns the last lines of a log, and our error message if it is not among them.

  When a disk is full, threads of TensorStore print tracebacks after it.
  """
  last = '\n'.join(said.rstrip().splitlines()[-_SHOWN:])
  message = re.findall(r'error: .*', said)[-1:]
  return last if not message or message[0] in last else f'{message[0]}\n...\n{last}'


def _hopeless(said: str) -> bool:
  """Returns whether a run ended with an error message, so that a retry won't help.

  A rate that makes the loss infinite does so each time.
  """
  reported = any(line.startswith('error: ') for line in said.splitlines())
  return reported and 'Traceback (most recent call last)' not in said


def _follower() -> list[str]:
  """Returns the prefix of a command that must not outlive this process."""
  if sys.platform != 'linux':
    return []
  return [sys.executable, '-S', '-c', _FOLLOWS, str(os.getpid())]


@contextmanager
def _signals(asked: list[int]) -> Iterator[None]:
  """Appends each SIGINT and SIGTERM to a list."""

  def ask(number, _):
    if not asked:
      os.write(2, b'\nstopping: the workers save first (once more to stop at once)\n')
    asked.append(number)

  previous = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
  try:
    yield
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)
