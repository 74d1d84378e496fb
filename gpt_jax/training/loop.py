"""The only training loop: update, and where due log, evaluate, sample, save."""

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
from gpt_jax.data.batches import Batch, prefetched
from gpt_jax.training.checkpoint import Checkpoints
from gpt_jax.training.optim import Hyper
from gpt_jax.training.record import Record
from gpt_jax.training.step import State


class Interrupted(Exception):
  """Training was asked to stop, and has saved. Carries the signal's number."""


def train(
  run: config.Run,
  state: State,
  *,
  update: Callable[[State, Batch, Hyper], tuple[State, dict[str, jax.Array]]],
  batch: Callable[[int], Batch],
  evaluate: Callable[[dict], dict[str, float]],
  sample: Callable[[dict], str],
  record: Record,
  checkpoints: Checkpoints,
  profile: tuple[int, int] | None = None,
  profile_folder: str = '',
) -> State:
  """Returns the state after `run.steps` updates, all recorded and saved.

  Args:
    run: what to do when.
    state: where to start; donated.
    update: one optimizer update.
    batch: the batch of an update, by number.
    evaluate: parameters -> metrics; 'valid_nll' [nats/token] chooses the best.
    sample: parameters -> text for samples.txt.
    record: open at `state.step`.
    checkpoints: of this run.
    profile: trace the updates first .. last - 1 into `profile_folder`.

  Raises:
    UserError: the loss is no longer finite, or a checkpoint could not be written.
    Interrupted: by SIGINT or SIGTERM; the state reached is saved.
  """
  hp = Hyper.of(run)
  first = int(state.step)
  tokens = run.batch * run.model.T
  finite, tracing = 'none yet', False
  waiting = None  # the last update's step and metrics: fetched one step late

  def fetch(due: bool) -> None:
    """Looks at the metrics of the update before: by now they are computed."""
    nonlocal finite, waiting
    if waiting is None:
      return
    step, metrics = waiting
    waiting = None
    loss = float(metrics['loss'])
    if not math.isfinite(loss):
      latest = checkpoints.latest()
      raise UserError(
        f'the loss of update {step} is {loss}; the last finite one was {finite}. '
        + (
          f'The last checkpoint is {checkpoints.folder / str(latest)}. '
          if latest is not None
          else 'There is no checkpoint yet. '
        )
        + 'Lower optim.lr or optim.clip, or lengthen optim.warmup, in a new workdir.'
      )
    finite = f'{loss:.4f} at update {step}'
    if due:
      rate = meter.rate()
      record.write(
        step,
        {name: float(value) for name, value in metrics.items()}
        | {'tokens_per_s': rate, 'seconds': meter.seconds()},
      )
      shown.update(step, loss, rate)

  with (
    _signals() as asked,
    _Shown(run.steps, first) as shown,
    contextlib.closing(prefetched(batch, first, run.steps)) as batches,
  ):
    meter = _Meter(tokens)
    for step, rows in enumerate(batches, start=first + 1):
      if profile and profile[0] < step <= profile[1] and not tracing:
        jax.profiler.start_trace(profile_folder)
        tracing = True
      state, metrics = update(state, rows, hp)
      fetch(due=(step - 1) % run.log_every == 0)
      waiting = step, metrics
      meter.count()
      if tracing and step >= profile[1]:
        jax.block_until_ready(state)
        jax.profiler.stop_trace()
        tracing = False

      last = step == run.steps
      evaluated = None
      if last or step % run.eval_every == 0:
        fetch(due=last or step % run.log_every == 0)
        with meter.paused():
          evaluated = evaluate(state.params)
          record.write(step, evaluated)
          shown.print(step, evaluated)
          if run.sample_tokens:
            text = sample(state.params)
            record.write_samples(step, text)
      if evaluated or asked:
        fetch(due=step % run.log_every == 0)
        with meter.paused():
          checkpoints.save(state, evaluated and evaluated['valid_nll'])
      if asked and not last:
        checkpoints.wait()
        raise Interrupted(asked[0])
    checkpoints.wait()
  return state


class _Meter:
  """Tokens per second of training proper, without evaluation and saving."""

  def __init__(self, tokens: int):
    self.tokens = tokens
    self.start = self.last = time.monotonic()
    self.steps = 0

  def count(self) -> None:
    self.steps += 1

  def seconds(self) -> float:
    return round(time.monotonic() - self.start, 3)

  def rate(self) -> float:
    """Returns tokens per second since the last call."""
    now = time.monotonic()
    rate = self.steps * self.tokens / max(now - self.last, 1e-9)
    self.last, self.steps = now, 0
    return round(rate, 1)

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    begin = time.monotonic()
    yield
    self.last += time.monotonic() - begin


class _Shown:
  """A progress bar on a terminal, a plain line every few seconds elsewhere."""

  def __init__(self, steps: int, first: int):
    self.terminal = sys.stderr.isatty()
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

  def update(self, step: int, loss: float, rate: float) -> None:
    text = f'loss {loss:.3f}  {rate:,.0f} tokens/s'
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
    self.bar.console.print(f'update {step}: {text}', highlight=False)


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
  """Gives a list that a first SIGINT or SIGTERM is added to; a second one kills."""
  asked = []

  def ask(number, _):
    asked.append(number)
    for each in previous:
      signal.signal(each, signal.SIG_DFL)
    os.write(2, b'\nstopping: saving first (once more to stop at once)\n')

  previous = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
  try:
    yield asked
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)
