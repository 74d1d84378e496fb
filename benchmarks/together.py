"""Eight runs in one program, beside one by one, in nanoGPT's CPU setting.

  python -m benchmarks.together > benchmarks/results/together-cpu.md

Two things are measured. Updates: 8 runs together and one alone, in turn in one process;
the ratio is the time of the 8 over 8 times that of the one, the median of the rounds'
ratios. Launches: `launch.py sweep` of 8 runs that differ in seed and rate, with
--together=0 and with --together=1, which starts a process for each; either side begins
without compiled programs, and the eight processes share theirs. The tokens are there.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax

from gpt_jax.cli.messages import shown
from gpt_jax.runs import setup
from gpt_jax.training import sharding
from gpt_jax.training.members import Alone, Together

RUNS = 8
ROOT = Path(__file__).resolve().parent.parent
CONFIG = """
from gpt_jax import config

def get_config():
  return config.Run(
    steps={steps}, batch=12, eval_every=10**6, eval_tokens=10_000, sample_tokens=0,
    data=config.Data(source='python:docs', tokenizer='bytes', tokens='{folder}/tokens'),
    model=config.Model(L=4, D=128, N=4, T=64, bias=False),
    optim=config.Optim(lr=1e-3, warmup=20, beta2=0.99),
  )
"""
SWEEP = """
from gpt_jax.sweep import grid

RUNS = grid({'optim.lr': [5e-4, 1e-3, 2e-3, 4e-3], 'seed': [0, 1]})
"""


def updates(folder: Path, rounds: int) -> tuple[float, float, float]:
  """Returns ms of an update of 8 runs, of one, and the ratio to 8 of the latter."""
  names: dict = {}
  exec(CONFIG.format(steps=100, folder=folder), names)
  layout = sharding.Layout(tuple(jax.devices()[:1]))
  with contextlib.ExitStack() as stack:
    members = []
    for seed in range(RUNS):
      run = names['get_config']()
      run.seed, run.optim.lr = seed, 1e-3 * (seed + 1)
      one = setup.ready(run, folder / f'{seed}', layout, report=lambda text: None)
      members.append(stack.enter_context(one))
    group = Together(
      [member.run for member in members],
      members[0].objective,
      layout.devices,
      in_turn=layout.devices[0].platform == 'cpu',
    )
    states = [member.start(lambda text: None) for member in members]
    first, run = members[0], members[0].run
    alone = Alone.of(run, first.cfg, layout)
    sides = {
      'together': [group.stack(states), group.put([m.rows(0) for m in members])],
      'alone': [states[0], alone.put([first.rows(0)])],
    }

    def one(name: str) -> float:
      side = sides[name]
      begin = time.perf_counter()
      program = group if name == 'together' else alone
      side[0], _ = program.update(side[0], side[1])
      jax.block_until_ready(side[0])
      return time.perf_counter() - begin

    for name in sides:
      one(name)
    times = [[one(name) for name in sides] for _ in range(rounds)]
  whole, single = (1e3 * statistics.median(t) for t in zip(*times, strict=True))
  return whole, single, statistics.median(a / (RUNS * b) for a, b in times)


def launched(folder: Path, steps: int, most: int) -> float:
  """Returns the seconds of a sweep of 8 runs, at most so many in a program."""
  (folder / 'run.py').write_text(CONFIG.format(steps=steps, folder=folder.parent))
  (folder / 'sweep.py').write_text(SWEEP)
  command = [
    sys.executable,
    'launch.py',
    'sweep',
    f'--config={folder}/run.py',
    f'--sweep={folder}/sweep.py',
    f'--workdir={folder}/runs',
    f'--together={most}',
  ]
  env = {**os.environ, 'JAX_COMPILATION_CACHE_DIR': str(folder / 'compiled')}
  begin = time.perf_counter()
  done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
  if done.returncode:
    sys.exit(done.stderr)
  return time.perf_counter() - begin


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--rounds', type=int, default=30)
  parser.add_argument('--steps', type=int, default=200)
  parser.add_argument('--launches', type=int, default=1)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    whole, single, ratio = updates(folder, args.rounds)
    turns = []
    for turn in range(args.launches):
      sides = []
      for most in (0, 1):
        place = folder / f'{turn}_{most}'
        place.mkdir()
        sides.append(launched(place, args.steps, most))
      turns.append(sides)
  one, eight = (statistics.median(side) for side in zip(*turns, strict=True))
  total = statistics.median(a / b for a, b in turns)
  device = jax.devices()[0].device_kind
  print(f'# {RUNS} runs together, beside one by one ({device})\n')
  print(
    f'`python -m benchmarks.together --rounds={args.rounds} --steps={args.steps} '
    f'--launches={args.launches}`; 4 x 128, T = 64, batch 12, float32, AdamW\n'
  )
  print(
    '| update of 8, ms | of 1, ms | ratio to 8 of 1 | one program, s '
    '| eight launches, s | ratio |\n|---|---|---|---|---|---|'
  )
  print(
    f'| {whole:.0f} | {single:.1f} | {ratio:.2f} | {one:.0f} | {eight:.0f} '
    f'| {total:.2f} |'
  )


if __name__ == '__main__':
  with shown():
    main()
