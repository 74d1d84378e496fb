"""The only training loop: update, and where due log, evaluate, sample, save."""

import collections
import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator

import jax
import rich.progress

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.data.windows import Batch, prefetched
from gpt_jax.tasks.inputs import TaskBatch
from gpt_jax.training import checksums
from gpt_jax.training.checkpoint import Checkpoints
from gpt_jax.training.metrics_log import MetricsLog
from gpt_jax.training.optim import Hyper
from gpt_jax.training.step import State
from gpt_jax.training.throughput import Throughput

_MOST_SPIKES = 20  # updates left out one after another
_MOST_ROLL_BACKS = 5  # to one checkpoint


class Interrupted(Exception):
  """Training was asked to stop, and has saved. Carries the signal's number."""


class _Spike(Exception):
  """The guard wants to roll back. Carries the number of the update, and its loss."""


def train(
  run: config.Run,
  state: State,
  *,
  update: Callable[
    [State, Batch | TaskBatch, Hyper], tuple[State, dict[str, jax.Array]]
  ],
  batch: Callable[[int], Batch | TaskBatch],
  evaluate: Callable[[dict, int], dict[str, float]],
  sample: Callable[[dict], str],
  record: MetricsLog | None,
  meter: Throughput,
  checkpoints: Checkpoints,
  restore: Callable[[int], State],
  anywhere: Callable[[int], int] | None = None,
  profile: tuple[int, int] | None = None,
  profile_folder: str = '',
) -> State:
  """Returns the state after `run.steps` updates, all recorded and saved.

  Args:
    run: what to do when.
    state: where to start; donated.
    update: one optimizer update.
    batch: the batch of an update, by number.
    evaluate: parameters, updates done -> metrics; 'valid_nll' chooses the best
      checkpoint, where there is one.
    sample: parameters -> text for samples.txt.
    record: open at `state.step`; None for a process that writes and shows nothing.
    meter: of the speed.
    checkpoints: of this run.
    restore: number of updates -> the state in that checkpoint.
    anywhere: of several processes: the largest of a number of theirs. They stop when
      one was asked to, at an update that is logged.
    profile: trace the updates first .. last - 1 into `profile_folder`.

  Raises:
    UserError: the loss is no longer finite, spikes do not end, or a checkpoint could
      not be written.
    Interrupted: by SIGINT or SIGTERM; the state reached is saved.
  """
  hp = Hyper.of(run)
  first = int(state.step)
  finite, tracing = 'none yet', False
  waiting = None  # the last update's step and metrics: fetched one step late
  spikes = 0  # one after another
  rolled_back, passed_over = collections.Counter(), collections.Counter()

  def fetch(due: bool) -> None:
    """Looks at the metrics of the update before: by now they are computed."""
    nonlocal finite, waiting, spikes
    if waiting is None:
      return
    step, metrics = waiting
    waiting = None
    with meter.computing():
      loss = float(metrics['loss'])
    spike = bool(metrics.get('spike', False))
    spikes = spikes + 1 if spike else 0
    if spikes > _MOST_SPIKES or not (spike or math.isfinite(loss)):
      raise UserError(
        f'the loss of update {step} is {loss}; the last good one was {finite}. '
        f'{_last_checkpoint(checkpoints)} Lower optim.lr or optim.clip, or lengthen '
        'optim.warmup, in a new workdir.'
      )
    if spike and run.optim.guard == 'rollback' and checkpoints.latest() is not None:
      raise _Spike(step, loss)
    finite = finite if spike else f'{loss:.4f} at update {step}'
    if due and record:
      speed = meter.window()
      values = {name: float(value) for name, value in metrics.items()}
      # JSON has no NaN, which the loss of an update that was left out may be.
      known = {name: value for name, value in values.items() if math.isfinite(value)}
      record.write(step, known | speed)
      shown.update(step, loss, speed)

  def go(state: State) -> State:
    """Returns the state at the end of the run."""
    nonlocal tracing, waiting
    first = int(state.step)
    over = 0 if state.guard is None else int(state.guard.passed_over)
    ahead = prefetched(lambda step: batch(step + over), first, run.steps)
    with contextlib.closing(ahead) as batches:
      for step, rows in enumerate(meter.inputs(batches), start=first + 1):
        if profile and profile[0] < step <= profile[1] and not tracing:
          jax.profiler.start_trace(profile_folder)
          tracing = True
        state, metrics = update(state, rows, hp)
        fetch(due=(step - 1) % run.log_every == 0)
        waiting = step, metrics
        meter.count(rows.tokens)
        if tracing and step >= profile[1]:
          jax.block_until_ready(state)
          jax.profiler.stop_trace()
          tracing = False

        last = step == run.steps
        evaluated = None
        stop = asked[0] if asked else 0
        if anywhere:
          stop = anywhere(stop) if step % run.log_every == 0 else 0
        if last or step % run.eval_every == 0:
          fetch(due=last or step % run.log_every == 0)
          with meter.paused():
            evaluated = evaluate(state.weights, step)
            text = sample(state.weights) if run.sample_tokens else ''
            if record:
              record.write(step, evaluated)
              shown.print(step, evaluated)
              if text:
                record.write_samples(step, text)
        if evaluated or stop:
          fetch(due=step % run.log_every == 0)
          with meter.paused():
            if evaluated:
              # Not of a stop's checkpoint, which an undisturbed run does not have.
              found = checksums.of(state)
              if record:
                record.write_fingerprint(step, found)
            checkpoints.save(state, evaluated and evaluated.get('valid_nll'))
        if stop and not last:
          checkpoints.wait()
          raise Interrupted(stop)
      checkpoints.wait()
    return state

  def back(step: int, loss: float) -> State:
    """Returns the last checkpoint's state, which will go on with later data."""
    checkpoints.wait()
    saved = checkpoints.latest()
    rolled_back[saved] += 1
    if rolled_back[saved] > _MOST_ROLL_BACKS:
      raise UserError(
        f'the loss of update {step} is {loss}, a spike, and {_MOST_ROLL_BACKS} '
        f'roll-backs to update {saved} did not help; the last good one was {finite}. '
        'Lower optim.lr or optim.clip in a new workdir, or raise optim.guard_sigmas.'
      )
    if record:
      record.cut(saved)
      shown.say(f'update {step}: loss {loss:.4f} is a spike; back to update {saved}')
    state = restore(saved)
    passed_over[saved] += step - saved
    over = state.guard.passed_over + passed_over[saved]
    return state.replace(guard=state.guard.replace(passed_over=over))

  with _signals() as asked, _Shown(run.steps, first, record is not None) as shown:
    while True:
      try:
        return go(state)
      except _Spike as spike:
        state, waiting = back(*spike.args), None


def _last_checkpoint(checkpoints: Checkpoints) -> str:
  latest = checkpoints.latest()
  if latest is None:
    return 'There is no checkpoint yet.'
  return f'The last checkpoint is {checkpoints.folder / str(latest)}.'


class _Shown:
  """A progress bar on a terminal, a plain line every few seconds elsewhere."""

  def __init__(self, steps: int, first: int, on: bool):
    self.terminal = on and sys.stderr.isatty()
    self.bar = rich.progress.Progress(
      rich.progress.TextColumn('{task.completed}/{task.total} updates'),
      rich.progress.BarColumn(),
      rich.progress.TextColumn('{task.fields[text]}'),
      rich.progress.TimeElapsedColumn(),
      rich.progress.TextColumn('left'),
      rich.progress.TimeRemainingColumn(elapsed_when_finished=False),
      console=rich.console.Console(stderr=True),
      disable=not self.terminal,
    )
    self.steps, self.first = steps, first
    self.task = self.bar.add_task('', total=steps, completed=first, text='compiling')
    self.begin = self.printed = time.monotonic()

  def __enter__(self) -> '_Shown':
    self.bar.start()
    return self

  def __exit__(self, *_) -> None:
    self.bar.stop()

  def update(self, step: int, loss: float, speed: dict[str, float]) -> None:
    text = f'loss {loss:.3f}  {speed["tokens_per_s"]:,.0f} tokens/s'
    if 'mfu' in speed:
      text += f'  {100 * speed["mfu"]:.1f} % of peak'
    self.bar.update(self.task, completed=step, text=text)
    now = time.monotonic()
    if not self.terminal and (now - self.printed > 5 or step == self.steps):
      left = (now - self.begin) / (step - self.first) * (self.steps - step)
      print(
        f'update {step}/{self.steps}  {text}  {left:.0f} s left',
        file=sys.stderr,
        flush=True,
      )
      self.printed = now

  def print(self, step: int, values: dict[str, float]) -> None:
    text = '  '.join(f'{name} {value:.4f}' for name, value in values.items())
    self.say(f'update {step}: {text}')

  def say(self, text: str) -> None:
    self.bar.console.print(text, highlight=False)


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
  """Gives a list that a first SIGINT or SIGTERM is added to; a second one kills.

  SIGUSR1 asks too, and any number of them is one: the kernel may send several where a
  sweep is killed whose worker this is.
  """
  asked = []
  killing = signal.SIGINT, signal.SIGTERM

  def ask(number, _):
    if asked:
      return
    asked.append(number)
    for each in killing:
      signal.signal(each, signal.SIG_DFL)
    os.write(2, b'\nstopping: saving first (once more to stop at once)\n')

  previous = {s: signal.signal(s, ask) for s in (*killing, signal.SIGUSR1)}
  try:
    yield asked
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)
