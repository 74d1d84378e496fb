"""The only training loop: update, and where due log, evaluate, sample, save.

It trains one member or several at once (`training/members.py`). Each has a log and
checkpoints of its own, like those of a run by itself.
"""

import collections
import contextlib
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import rich.progress

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.data.windows import prefetched
from gpt_jax.training import checksums
from gpt_jax.training.checkpoint import Checkpoints
from gpt_jax.training.members import Alone, Together
from gpt_jax.training.metrics_log import MetricsLog, finite
from gpt_jax.training.step import State
from gpt_jax.training.throughput import Throughput
from gpt_jax.training.watch import Diverged, Spike, Watch

_MOST_ROLL_BACKS = 5  # to one checkpoint


class Interrupted(Exception):
  """Training was interrupted, and has saved. Carries the signal's number."""


class Training(NamedTuple):
  """What the loop trains: members that share a program.

  Attributes:
    run: the config whose schedule of logs, evaluations and saves all members share.
    state: the first state; donated.
    folders: of each member, for its log.
    rows: updates done -> each member's next batch, numpy arrays.
    evaluate: (state, updates done) -> each member's metrics; 'valid_nll', where there
      is one, chooses the best checkpoint.
    sample: state -> each member's text for samples.txt; '' for none.
    restore: number of updates -> the state in that checkpoint.
    flops_per_token: FLOPs of an update for each of its tokens; 0: not counted.
    report: is told in a line what happens beside training.
    begin: -> the state before the first update.
    poisoned: called when an update's loss is not finite and no member is left, with its
      number, the number of its batch, and what returns the state before it; returns
      what to tell about it.
  """

  run: config.Run
  state: State
  program: Alone | Together
  folders: Sequence[pathlib.Path]
  checkpoints: Sequence[Checkpoints]
  rows: Callable[[int], list[Any]]
  evaluate: Callable[[State, int], list[dict[str, float]]]
  sample: Callable[[State], list[str]]
  restore: Callable[[int], State]
  flops_per_token: float
  report: Callable[[str], None] = print
  begin: Callable[[], State] | None = None
  poisoned: Callable[[int, int, Callable[[], State]], str] | None = None


def train(
  training: Training,
  *,
  anywhere: Callable[[int], int] | None = None,
  diverged: Callable[[int, int], None] = lambda member, step: None,
  profile: tuple[int, int] | None = None,
  profile_folder: str | pathlib.Path = '',
  shows: bool = True,
) -> str:
  """Trains members up to `run.steps` updates, all logged and saved.

  A member whose loss is no longer finite is trained no further; the others are.

  Args:
    anywhere: with several processes, a number -> the largest that any of them passed.
      They all stop when one is asked to, at an update that is logged.
    diverged: called with the number of a member that diverges, and the update.
    profile: traces the updates first .. last - 1 into `profile_folder`.
    shows: whether this process logs and prints.

  Returns:
    A line about speed and memory, '' of a process that shows nothing.

  Raises:
    UserError: spikes do not end, or a checkpoint could not be written.
    Diverged: no member is left.
    Interrupted: by SIGINT or SIGTERM; the states reached are saved.
  """
  run, state, program = training.run, training.state, training.program
  checkpoints, number = training.checkpoints, len(training.checkpoints)
  first = int(state.step)
  watch = Watch(checkpoints, run.optim.guard, diverged)
  throughput = Throughput(
    flops_per_token=training.flops_per_token,
    devices=program.devices,
    dtype=run.model.dtype,
  )
  tracing = False
  waiting = None  # the last update's step and metrics: fetched one step late
  rolled_back, passed_over = collections.Counter(), collections.Counter()
  over = 0  # batches that roll-backs skipped

  def fetch(due: bool) -> None:
    """Checks and logs the previous update's metrics: by now they are computed."""
    nonlocal waiting
    if waiting is None:
      return
    step, metrics = waiting
    waiting = None
    with throughput.computing():
      each = program.split(metrics)
    loss = watch.look(step, each)
    if due and shows:
      clock = throughput.window()
      progress.update(step, loss, clock)
      for i in watch.alive():
        # A member's share of the time, so that times add up.
        seconds = {'seconds': round(clock['seconds'] / number, 3)}
        logs[i].write(step, each[i] | clock | seconds)

  def look(step: int, state: State) -> list[dict[str, float]]:
    """Evaluates, samples and logs; returns the metrics."""
    metrics = training.evaluate(state, step)
    watch.judge(step, metrics)
    texts = training.sample(state) if run.sample_tokens else []
    if shows:
      alive = watch.alive()
      for i in alive:
        logs[i].write(step, metrics[i])
        if texts:
          logs[i].write_samples(step, texts[i])
      progress.print(step, _mean([metrics[i] for i in alive]))
    return metrics

  def save(step: int, state: State, metrics: list[dict[str, float]]) -> None:
    """Saves every member; `metrics` is [] when training was asked to stop."""
    for i in watch.alive():
      own = program.member(state, i)
      if not watch.check(step, i, own.weights):
        continue
      tensors, record = checksums.items(own), {}
      if shows:
        if metrics:
          logs[i].write_checksums(step, checksums.line(tensors))
        record = logs[i].mark()
      nll = metrics[i].get('valid_nll') if metrics else None
      checkpoints[i].save(own, nll, tensors=tensors, record=record)

  def wait() -> None:
    for each in checkpoints:
      each.wait()

  def go(state: State) -> State:
    """Returns the state at the end of the run."""
    nonlocal tracing, waiting, over
    first = int(state.step)
    over = 0 if state.guard is None else int(np.max(state.guard.passed_over))
    batch_of = lambda step: program.put(training.rows(step + over))  # noqa: E731
    ahead = prefetched(batch_of, first, run.steps)
    with contextlib.closing(ahead) as batches:
      for step, batch in enumerate(throughput.inputs(batches), start=first + 1):
        if profile and profile[0] < step <= profile[1] and not tracing:
          jax.profiler.start_trace(str(profile_folder))
          tracing = True
        state, metrics = program.update(state, batch)
        fetch(due=(step - 1) % run.log_every == 0)
        waiting = step, metrics
        throughput.count(batch.tokens)
        if tracing and step >= profile[1]:
          jax.block_until_ready(state)
          jax.profiler.stop_trace()
          tracing = False

        last = step == run.steps
        evaluated = []
        stop = asked[0] if asked else 0
        if anywhere:
          stop = anywhere(stop) if step % run.log_every == 0 else 0
        if last or step % run.eval_every == 0:
          fetch(due=last or step % run.log_every == 0)
          with throughput.paused():
            evaluated = look(step, state)
        if evaluated or stop:
          fetch(due=step % run.log_every == 0)
          with throughput.paused():
            save(step, state, evaluated)
        if stop and not last:
          wait()
          raise Interrupted(stop)
      wait()
    return state

  def back(step: int, loss: float) -> State:
    """Returns the last checkpoint's state, set to continue with later data."""
    wait()
    saved = watch.latest()
    rolled_back[saved] += 1
    if rolled_back[saved] > _MOST_ROLL_BACKS:
      raise UserError(
        f'the loss of update {step} is {loss}, a spike, and {_MOST_ROLL_BACKS} '
        f'roll-backs to update {saved} did not help; the last good one was '
        f'{watch.good}. Lower optim.lr or optim.clip in a new workdir, or raise '
        'optim.guard_sigmas.'
      )
    if shows:
      logs[0].cut(saved, checkpoints[0].record(saved))
      progress.say(f'update {step}: loss {loss:.4f} is a spike; back to update {saved}')
    state = training.restore(saved)
    passed_over[saved] += step - saved
    over = state.guard.passed_over + passed_over[saved]
    return state.replace(guard=state.guard.replace(passed_over=over))

  def before(step: int) -> State:
    """Returns the state before an update, computed again from the last checkpoint."""
    wait()
    saved = watch.latest()
    state = training.begin() if saved is None else training.restore(saved)
    if state.guard is not None:
      skipped = jnp.full_like(state.guard.passed_over, over)
      state = state.replace(guard=state.guard.replace(passed_over=skipped))
    progress.say(f'computing the state before update {step} again, from {saved or 0}')
    for done in range(int(state.step), step - 1):
      state, _ = program.update(state, program.put(training.rows(done + over)))
    return program.member(state, 0)

  with contextlib.ExitStack() as stack:
    logs = []
    for folder, saved in zip(training.folders, checkpoints, strict=True):
      if shows:
        log = MetricsLog(folder, first, saved.record(first), training.report)
        logs.append(stack.enter_context(contextlib.closing(log)))
    asked = stack.enter_context(_signals())
    progress = stack.enter_context(_Progress(run.steps, first, shows))
    while True:
      try:
        go(state)
        return throughput.summary() if shows else ''
      except Spike as spike:
        state, waiting = back(*spike.args), None
      except Diverged as error:
        step = error.step
        if not step or training.poisoned is None:
          raise
        more = training.poisoned(step, step - 1 + over, partial(before, step))
        raise Diverged(f'{error}\n{more}') from error


def _mean(each: list[dict[str, float]]) -> dict[str, float]:
  """Returns the mean of each metric over members, of those that are finite."""
  good = [finite(metrics) for metrics in each]
  names = [name for name in each[0] if any(name in metrics for metrics in good)]
  return {
    name: float(np.mean([metrics[name] for metrics in good if name in metrics]))
    for name in names
  }


class _Progress:
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

  def __enter__(self) -> '_Progress':
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
  """Yields a list that receives the first SIGINT or SIGTERM; a second one kills.

  SIGUSR1 asks for a stop too, and several count as one: when a sweep is killed, the
  kernel may send its workers more than one.
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
