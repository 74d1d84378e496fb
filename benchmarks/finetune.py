"""Several seeds of a fine-tuning in one program, beside one run for each.

  python -m benchmarks.finetune > benchmarks/results/finetune-cpu.md

A made-up task of SST-2's form, a GPT-1 with random weights, batch 32. Two things are
measured. Updates: 4 seeds together and one alone, in turn in one process; the ratio is
the time of the 4 over 4 times that of the one, the median of the rounds' ratios.
Launches: `launch.py train` once for 4 seeds, and four times for one, to the end; either
side begins without compiled programs, and the four launches share theirs.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax

from gpt_jax import config
from gpt_jax.cli.messages import shown
from gpt_jax.config import papers
from gpt_jax.runs import finetune, finetune_job, train
from gpt_jax.runs.load import load

SEEDS = 4
SHAPES = {'6 x 384': (6, 384, 6), '4 x 128': (4, 128, 4)}
ROOT = Path(__file__).resolve().parent.parent


def made(folder: Path, L: int, D: int, N: int) -> config.Run:
  """Returns a run of the task on a model of the shape, both made in a folder."""
  rng = random.Random(0)
  words = [''.join(rng.choices('abcdefgh', k=3)) for _ in range(50)]
  text = lambda: ' '.join(rng.choices(words, k=rng.randint(1, 10)))  # noqa: E731
  (folder / 'text').mkdir()
  for i in range(3):
    (folder / f'text/{i}.txt').write_text('\n'.join(text() for _ in range(50)))
  for split, number in (('train', 640), ('dev', 64)):
    lines = [f'{text()}\t{i % 2}\n' for i in range(number)]
    (folder / f'{split}.tsv').write_text('sentence\tlabel\n' + ''.join(lines))
  base = config.Run(steps=1, batch=1, sample_tokens=0)
  base.data = config.Data(source=str(folder / 'text'), tokenizer='bytes')
  base.model = papers.gpt1()
  base.model.L, base.model.D, base.model.N, base.model.T = L, D, N, 64
  base.model.vocab, base.optim.warmup = 8192, 0
  train.train(base, folder / 'base', report=lambda text: None)
  run = papers.gpt1_finetuning('sst2')
  run.init_from, run.task.data = str(folder / 'base'), str(folder)
  return run


def updates(run: config.Run, rounds: int) -> tuple[float, float, float]:
  """Returns ms of an update of 4 seeds, of one, and the ratio to 4 of the latter."""
  run.seeds = SEEDS
  job = finetune_job.read_job(run, lambda text: None)
  sides = []
  for seeds in (range(SEEDS), [0]):
    program = finetune.program_of(job, seeds, {})
    state = program.begin(job.make, load(run.init_from).params, seeds=seeds)
    sides.append([program, state, program.put([job.batch(seed, 0) for seed in seeds])])

  def one(side) -> float:
    program, state, batch = side
    begin = time.perf_counter()
    side[1], _ = program.update(state, batch)
    jax.block_until_ready(side[1])
    return time.perf_counter() - begin

  for side in sides:
    one(side)
  times = [[one(side) for side in sides] for _ in range(rounds)]
  together, alone = (1e3 * statistics.median(t) for t in zip(*times, strict=True))
  return together, alone, statistics.median(a / (SEEDS * b) for a, b in times)


def launched(run: config.Run, folder: Path, seeds: int, seed: int) -> None:
  """Runs launch.py to the end of a run."""
  workdir = folder / f'run{seed}'
  command = [
    sys.executable,
    'launch.py',
    'train',
    '--config=experiments/gpt1/finetune.py:sst2',
    f'--config.init_from={run.init_from}',
    f'--config.task.data={run.task.data}',
    f'--config.seeds={seeds}',
    f'--config.seed={seed}',
    f'--workdir={workdir}',
  ]
  env = {**os.environ, 'JAX_COMPILATION_CACHE_DIR': str(folder / 'compiled')}
  done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
  if done.returncode:
    sys.exit(done.stderr)


def launches(run: config.Run) -> tuple[float, float]:
  """Returns the seconds of one launch of 4 seeds, and of four launches of one."""
  seconds = []
  for seeds, firsts in ((SEEDS, [0]), (1, range(SEEDS))):
    with tempfile.TemporaryDirectory() as folder:
      begin = time.perf_counter()
      for seed in firsts:
        launched(run, Path(folder), seeds, seed)
      seconds.append(time.perf_counter() - begin)
  return seconds[0], seconds[1]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--shapes', nargs='+', choices=SHAPES, default=list(SHAPES))
  parser.add_argument('--rounds', type=int, default=15)
  parser.add_argument('--launches', type=int, default=2)
  args = parser.parse_args()
  device = jax.devices()[0].device_kind
  print(f'# {SEEDS} seeds of a fine-tuning together, beside one by one ({device})\n')
  print(
    '`python -m benchmarks.finetune`; batch 32, float32, 3 epochs of 640 examples\n'
  )
  print('| GPT-1, V = 8192 | update of 4, ms | of 1, ms | ratio to 4 of 1 ', end='')
  print('| one launch, s | four launches, s | ratio |\n|---|---|---|---|---|---|---|')
  for name in args.shapes:
    with tempfile.TemporaryDirectory() as folder:
      run = made(Path(folder), *SHAPES[name])
      together, alone, ratio = updates(run, args.rounds)
      turns = [launches(run) for _ in range(args.launches)]
    one, four = (statistics.median(side) for side in zip(*turns, strict=True))
    total = statistics.median(a / b for a, b in turns)
    print(
      f'| {name} | {together:.0f} | {alone:.0f} | {ratio:.2f} | {one:.0f} | {four:.0f} '
      f'| {total:.2f} |',
      flush=True,
    )


if __name__ == '__main__':
  with shown():
    main()
