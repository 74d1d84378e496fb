"""A long run in short: 50,000 updates of a tiny model, watched for what grows or slows.

  python -m benchmarks.soak --plot=docs/soak.png > benchmarks/results/soak-cpu.md

`runs.train.train` trains in this process, with a held-out evaluation, a sample and a
checkpoint every 200 updates. At each evaluation the process and its workdir are looked
at: memory, live arrays of jax, descriptors, threads, files, and how long lines of
metrics.jsonl took. It ends with 1 where something is not flat. Linux only.
"""

import os
import pathlib
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple
from unittest import mock

import jax
import matplotlib.figure
from absl import flags, logging

from gpt_jax import config
from gpt_jax.cli.messages import run_script
from gpt_jax.config import UserError
from gpt_jax.runs import provenance
from gpt_jax.runs.train import train
from gpt_jax.training import loop
from gpt_jax.training.metrics_log import MetricsLog

_STEPS = flags.DEFINE_integer('steps', 50_000, 'updates', lower_bound=1)
_EVAL_EVERY = flags.DEFINE_integer(
  'eval_every', 200, 'updates from one evaluation and checkpoint to the next', 1
)
_PLOT = flags.DEFINE_string(
  'plot', '', 'PNG of what was seen over updates; empty: none'
)


class Look(NamedTuple):
  """What was seen at an evaluation, before its checkpoint.

  Attributes:
    step: updates done.
    seconds: on the wall's clock.
    cpu: that this process has used, of all cores together.
    others: that all other processes have used since the machine started.
    memory: resident size [bytes].
    arrays: live arrays of jax.
    descriptors: open file descriptors.
    threads: of the process.
    files: in the workdir, but for those in checkpoints.
    checkpoints: folders of checkpoints.
    line: the least time that a line of metrics.jsonl took since the last look [s]; what
      else the machine does makes the others longer.
  """

  step: int
  seconds: float
  cpu: float
  others: float
  memory: int
  arrays: int
  descriptors: int
  threads: int
  files: int
  checkpoints: int
  line: float


def tiny(folder: pathlib.Path, steps: int, eval_every: int) -> config.Run:
  """Returns the config of a run, on a text that is written into `folder`."""
  draw = random.Random(0)
  words = [''.join(draw.choices('abcdefgh', k=draw.randint(2, 6))) for _ in range(99)]
  text = '\n'.join(' '.join(draw.choices(words, k=20)) for _ in range(600))
  source = folder / 'text.txt'
  source.write_text(text, encoding='utf-8')
  return config.Run(
    steps=steps,
    batch=8,
    eval_every=eval_every,
    eval_tokens=512,
    eval_batch=32,
    sample_tokens=8,
    devices=1,
    data=config.Data(source=str(source), tokenizer='chars', processes=1),
    model=config.Model(L=1, D=16, N=1, T=16),
    optim=config.Optim(lr=1e-3, schedule='constant', warmup=10),
  )


def soak(run: config.Run, workdir: pathlib.Path) -> list[Look]:
  """Trains a run, and returns what was seen at each of its evaluations."""
  looks: list[Look] = []
  lines: list[float] = []

  class Watched(MetricsLog):
    """A log that takes the time of its lines, and looks around at evaluations."""

    def write(self, step: int, values: dict[str, float]) -> None:
      begin = time.perf_counter()
      super().write(step, values)
      lines.append(time.perf_counter() - begin)
      if 'valid_nll' in values:
        looks.append(look(step, workdir, min(lines)))
        lines.clear()

  with mock.patch.object(loop, 'MetricsLog', Watched):
    train(run, workdir, report=lambda text: None)
  return looks


def look(step: int, workdir: pathlib.Path, line: float) -> Look:
  """Returns what there is to see now; `line` is handed through."""
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
  user, nice, system, *_ = pathlib.Path('/proc/stat').read_text().split()[1:]
  busy = sum(map(int, (user, nice, system))) / os.sysconf('SC_CLK_TCK')
  cpu = time.process_time()
  saved = workdir / 'checkpoints'
  return Look(
    step=step,
    seconds=time.perf_counter(),
    cpu=cpu,
    others=busy - cpu,
    memory=pages * os.sysconf('SC_PAGE_SIZE'),
    arrays=len(jax.live_arrays()),
    descriptors=len(os.listdir('/proc/self/fd')),
    threads=len(os.listdir('/proc/self/task')),
    files=sum(
      len(files)
      for folder, _, files in os.walk(workdir)
      if saved not in pathlib.Path(folder).parents
    ),
    checkpoints=len(list(saved.glob('[0-9]*'))),
    line=line,
  )


def rates(looks: Sequence[Look], value: str, clock: str) -> list[float]:
  """Returns how much a value grew per unit of a clock, from each look to the next."""
  return [
    (getattr(b, value) - getattr(a, value)) / (getattr(b, clock) - getattr(a, clock))
    for a, b in zip(looks, looks[1:], strict=False)
  ]


class Check(NamedTuple):
  """What a quantity was at the start and at the end, and whether that is flat.

  Attributes:
    limit: the rule in words; empty: nothing is asked of this quantity.
  """

  name: str
  start: str
  end: str
  limit: str = ''
  flat: bool = True


def checks(looks: Sequence[Look], keep: int) -> list[Check]:
  """Returns whether each quantity is flat, by the limit of each.

  Args:
    looks: of a whole run, 20 or more.
    keep: of the run's config.
  """
  tenth = len(looks) // 10
  middle = statistics.median
  early, late = looks[tenth : 2 * tenth], looks[-tenth:]
  memory = [each.memory / 2**20 for each in looks[tenth:]]
  rows = [
    Check(
      'resident memory, MiB: least and most after the first tenth',
      f'{min(memory):.1f}',
      f'{max(memory):.1f}',
      'within 2 %',
      max(memory) <= 1.02 * min(memory),
    )
  ]
  # Pools start their threads one by one; those of a leak go on in the second half.
  half = looks[: len(looks) // 2]
  for name, words, before in (
    ('arrays', 'live arrays of jax', early),
    ('descriptors', 'descriptors', early),
    ('threads', 'threads', half[len(half) // 2 :]),
    ('files', 'files beside checkpoints', early),
  ):
    start, end = (
      middle(getattr(each, name) for each in part) for part in (before, late)
    )
    # One may come and go while we look: Orbax opens and closes some in the background.
    rows.append(
      Check(words, f'{start:g}', f'{end:g}', 'at most 1 more', end <= start + 1)
    )
  start, end = (max(each.checkpoints for each in part) for part in (early, late))
  most = keep + 1
  rows.append(
    Check('checkpoints', f'{start}', f'{end}', f'at most {most}', end <= most)
  )
  start, end = (1e6 * middle(each.line for each in part) for part in (early, late))
  rows.append(
    Check(
      'a line of metrics.jsonl, µs',
      f'{start:.0f}',
      f'{end:.0f}',
      'at most 1.2 times',
      end <= 1.2 * start,
    )
  )
  for value, clock, words in (
    ('step', 'seconds', 'updates/s'),
    ('step', 'cpu', 'updates per CPU second'),
    ('others', 'seconds', 'cores that other processes used'),
  ):
    each = rates(looks, value, clock)
    # Compilation is in the first intervals; the median passes them over.
    start, end = middle(each[:tenth]), middle(each[-tenth:])
    digits = 2 if value == 'others' else 0
    numbers = f'{start:.{digits}f}', f'{end:.{digits}f}'
    if (value, clock) == ('step', 'seconds'):
      rows.append(Check(words, *numbers, 'at least 95 %', end >= 0.95 * start))
    else:
      rows.append(Check(words, *numbers))
  return rows


def figure(looks: Sequence[Look]) -> matplotlib.figure.Figure:
  """Returns a figure of memory, counts and speed over updates."""
  drawn = matplotlib.figure.Figure(figsize=(9, 7), layout='constrained')
  memory, counts, speed = drawn.subplots(3, 1, sharex=True)
  steps = [each.step for each in looks]
  sizes = [each.memory / 2**20 for each in looks]
  memory.plot(steps, sizes, label='resident')
  least = min(sizes[len(sizes) // 10 :])
  memory.axhspan(least, 1.02 * least, alpha=0.15, label='2 %')
  # The first sizes are those of compilation, and would flatten the others.
  memory.set_ylim(0.98 * least, max([1.04 * least, *sizes[len(sizes) // 10 :]]))
  memory.set_ylabel('memory [MiB]')
  for name in 'descriptors', 'threads', 'files', 'checkpoints':
    counts.plot(steps, [getattr(each, name) for each in looks], label=name)
  counts.set_ylabel('number')
  counts.set_ylim(bottom=0)
  speed.plot(steps[1:], rates(looks, 'step', 'seconds'), label='updates/s')
  speed.plot(steps[1:], rates(looks, 'step', 'cpu'), label='updates per CPU second')
  speed.set_ylabel('speed, all included')
  speed.set_ylim(bottom=0)
  speed.set_xlabel('updates')
  for axes in memory, counts, speed:
    axes.grid(alpha=0.3)
    axes.legend(loc='upper left', bbox_to_anchor=(1, 1))
  return drawn


def main(argv: Sequence[str]) -> None:
  del argv
  logging.set_verbosity(logging.FATAL)  # as launch.py does
  steps, eval_every = _STEPS.value, _EVAL_EVERY.value
  if steps // eval_every < 20:
    raise UserError(
      f'{steps} updates with an evaluation every {eval_every} are too few to compare '
      'the last tenth with the first; 20 evaluations or more are needed'
    )
  begin = time.perf_counter()
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    run = tiny(root, steps, eval_every)
    looks = soak(run, root / 'run')
  seconds = time.perf_counter() - begin
  cpu = provenance.now(jax.devices())['cpu']
  print(f'# {steps:,} updates, an evaluation and a checkpoint every {eval_every}\n')
  print(
    f'{cpu}, Python {platform.python_version()}, jax {jax.__version__}; 1 x 16, T = '
    f'16, batch 8, float32; {seconds:.0f} s in all. Medians of the second and the last '
    'tenth of the evaluations, of the first and the last tenth for speed.\n'
  )
  print('| what | start | end | limit | flat |\n|---|---|---|---|---|')
  rows = checks(looks, run.keep)
  for row in rows:
    verdict = ('yes' if row.flat else 'NO') if row.limit else ''
    print(f'| {row.name} | {row.start} | {row.end} | {row.limit} | {verdict} |')
  if _PLOT.value:
    figure(looks).savefig(_PLOT.value, dpi=130)
  sys.exit(not all(row.flat for row in rows))


if __name__ == '__main__':
  run_script(main)
