"""Local workers: each trains one run in a process of its own, on its own devices."""

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
from gpt_jax.sweep.plan import LAUNCH, Entry, Sweep
from gpt_jax.sweep.results import finished
from gpt_jax.training.loop import Interrupted
from gpt_jax.workdir import in_use

_TICK = 0.2  # seconds between two looks at the workers
_SHOWN = 15  # lines of a failed run's log
_PROBE = 'import jax; d = jax.local_devices(); print(d[0].platform, len(d))'
# Becomes the command behind it, and leaves a watcher that sends it SIGTERM, once, when
# the other end of its stdin is closed: when the sweep has died, be it by kill -9. (What
# Linux offers for that, PR_SET_PDEATHSIG, comes once for each thread of the sweep.)
_FOLLOWS = """
import os, signal, sys
worker = os.getpid()
if os.fork() == 0:
  os.read(0, 1)
  if os.getppid() == worker:
    os.kill(worker, signal.SIGTERM)
  os._exit(0)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@dataclasses.dataclass(frozen=True)
class Slot:
  """What a worker has for itself.

  Attributes:
    name: for people.
    environment: variables that choose its devices.
    cores: of the CPU; empty: any.
  """

  name: str
  environment: Mapping[str, str]
  cores: frozenset[int] = frozenset()


def slots(workers: int) -> list[Slot]:
  """Returns a slot for each worker.

  Args:
    workers: how many; 0: one for each device of an accelerator, on a CPU one.

  Raises:
    UserError: there are too few devices or cores for so many.
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
    workers: to be served; 1 has all devices.
    environment: whose CUDA_VISIBLE_DEVICES names the GPUs, if it is set.
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
  made = []
  for i in range(workers):
    own = ','.join(names[i * each : (i + 1) * each])
    chosen = {'CUDA_VISIBLE_DEVICES': own}
    if platform == 'tpu':
      chosen = {
        'TPU_VISIBLE_CHIPS': own,
        'TPU_CHIPS_PER_PROCESS_BOUNDS': '1,1,1',
        'TPU_PROCESS_BOUNDS': '1,1,1',
      }
    made.append(Slot(f'{platform} {own}', chosen))
  return made


@dataclasses.dataclass
class _Worker:
  """A process at work on a run; `begin` is where its part of the log begins."""

  entry: Entry
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
    ends: of the logs of failed runs, by name.
  """

  def __init__(
    self,
    sweep: Sweep,
    free: Sequence[Slot],
    *,
    retries: int,
    early: Callable[[Entry], bool] = lambda entry: False,
  ):
    """Finds out what is left to do.

    Args:
      sweep: whose runs are trained.
      free: what the workers have.
      retries: how often a crashed run is started again.
      early: whether a run that is not finished is to be stopped for good.
    """
    self.sweep, self.free, self.early = sweep, collections.deque(free), early
    self.states = {e.name: 'waiting' for e in sweep.entries}
    self.ends: dict[str, str] = {}
    self.tries = dict.fromkeys(self.states, retries)
    self.waiting: collections.deque[Entry] = collections.deque()
    self.running: list[_Worker] = []
    for entry in sweep.entries:
      if finished(entry):
        self.states[entry.name] = 'finished'
      elif early(entry):
        self.states[entry.name] = 'stopped early'
      else:
        self.waiting.append(entry)

  def work(self, show: Callable[[], None]) -> None:
    """Trains what is left, and returns when all that can be done is.

    Args:
      show: is called from time to time, and shows how things stand.

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
    """Starts the first run that is free, and returns whether there was one."""
    for _ in range(len(self.waiting)):
      entry = self.waiting.popleft()
      if not in_use(entry.workdir):
        slot = self.free.popleft()
        self.running.append(_started(entry, slot, self.sweep.folder / 'logs'))
        self.states[entry.name] = 'running'
        return True
      self.states[entry.name] = 'in use'  # left by a sweep that was killed: it saves
      self.waiting.append(entry)
    return False

  def _look(self, worker: _Worker, stopping: bool) -> None:
    code, entry = worker.process.poll(), worker.entry
    if code is None:
      if not worker.stopped_early and not stopping and self.early(entry):
        worker.stopped_early = True
        worker.process.send_signal(signal.SIGTERM)
      return
    worker.process.stdin.close()
    self.running.remove(worker)
    self.free.append(worker.slot)
    said = worker.log.read_bytes()[worker.begin :].decode(errors='replace')
    if code == 0 and finished(entry):
      state = 'finished'
    elif worker.stopped_early:
      state = 'stopped early'
    elif stopping:
      state = 'stopped'
    elif self.tries[entry.name] > 0 and not _told(said):
      self.tries[entry.name] -= 1
      self.waiting.appendleft(entry)
      state = 'waiting'
    else:
      state = 'failed'
      how = f'exit status {code}' if code > 0 else f'signal {-code}'
      self.ends[entry.name] = f'{entry.name}: {how}; {worker.log} ends:\n{_end(said)}'
    self.states[entry.name] = state

  def _tell(self, number: int) -> None:
    for worker in self.running:
      worker.process.send_signal(number)


def _end(said: str) -> str:
  """Returns the last lines of a log; before them our message, if it is not among them.

  Where a disk is full, threads of TensorStore print tracebacks behind it.
  """
  last = '\n'.join(said.rstrip().splitlines()[-_SHOWN:])
  message = re.findall(r'error: .*', said)[-1:]
  return last if not message or message[0] in last else f'{message[0]}\n...\n{last}'


def _told(said: str) -> bool:
  """Returns whether a run ended with a message to its user: again would be no better.

  A rate that makes the loss infinite does so each time.
  """
  mended = any(line.startswith('error: ') for line in said.splitlines())
  return mended and 'Traceback (most recent call last)' not in said


def _started(entry: Entry, slot: Slot, logs: pathlib.Path) -> _Worker:
  """Returns a worker at its run."""
  logs.mkdir(exist_ok=True)
  path = logs / f'{entry.name}.log'
  environment = {**os.environ, **slot.environment}
  pinned = bool(slot.cores)
  before = os.sched_getaffinity(0) if pinned else ()
  with open(path, 'ab') as log:
    begin = log.tell()
    log.write(f'--- {slot.name}: {entry.command}\n'.encode())
    log.flush()
    follower = [sys.executable, '-S', '-c', _FOLLOWS]
    try:
      if pinned:  # is handed down, before the worker counts its cores
        os.sched_setaffinity(0, slot.cores)
      process = subprocess.Popen(
        [*follower, sys.executable, str(LAUNCH), *entry.arguments],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
        process_group=0,  # so that Ctrl-C reaches it once, from us
      )
    finally:
      if pinned:
        os.sched_setaffinity(0, before)
  return _Worker(entry, slot, process, path, begin)


@contextmanager
def _signals(asked: list[int]) -> Iterator[None]:
  """Adds each SIGINT and SIGTERM to a list meanwhile."""

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
