"""Is the best learning rate of a narrow model that of a wider one?

Claim: under the maximal update parametrisation the learning rate that is best at width
64 is best, or nearly so, at 128 and 256; under the standard one the best rate falls as
the width grows. Source: Yang et al. 2022 (Tensor Programs V), figure 1. Cost: about 6
minutes of CPU time.

  python experiments/mup/learning_rates.py [--target=learning_rates.png]

Trains 2 layers on the bytes of Python's documentation, a few hundred updates at each
rate and width, from the same seed on the same text. Printed are means over the last
tenth of the updates, whose text is new to the model.
"""

import math
import pathlib
import sys

import matplotlib.figure
import numpy as np
from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from gpt_jax import config
from gpt_jax.cli.messages import run_script
from gpt_jax.config.length import stages
from gpt_jax.data import sources, windows
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.reports import committed
from gpt_jax.reports.committed import Measured
from gpt_jax.training import optim, sharding, step
from gpt_jax.training.members import Alone

BASE, N, T, ROWS = 64, 4, 64, 8

_RESULT = flags.DEFINE_string('result', '', 'file for experiments/table.py')
_WIDTHS = flags.DEFINE_list('widths', '64,128,256', 'multiples of 4')
_RATES = flags.DEFINE_list('rates', '0.0005,0.001,0.0014,0.002,0.0028,0.004', 'rates')
_STEPS = flags.DEFINE_integer('steps', 300, 'updates of each model', lower_bound=10)
_OPTIMIZER = flags.DEFINE_enum('optimizer', 'adamw', ['adamw', 'muon'], 'of kernels')
_TARGET = flags.DEFINE_string('target', None, 'PNG of the losses against the rate')


def run_of(D: int, mup: bool, lr: float, name: str, steps: int) -> config.Run:
  """Returns a run of a model of width D with 4 heads."""
  model = config.Model(L=2, D=D, N=N, T=T, vocab=256)
  if mup:
    model.mup_base, model.mup_base_N = BASE, N
  rates = config.Optim(
    name=name, lr=lr, final_lr=0.0, schedule='linear', warmup=steps // 10
  )
  run = config.Run(steps=steps, batch=ROWS, model=model, optim=rates)
  config.check(run)
  return run


def losses(D: int, mup: bool, rates: list[float], ids: np.ndarray) -> list[float]:
  """Returns for each rate the mean loss [nats/byte] of the last tenth of updates."""
  runs = [run_of(D, mup, lr, _OPTIMIZER.value, _STEPS.value) for lr in rates]
  cfg = GPTConfig.of(runs[0].model, 256)
  # The rate is traced, so that one program serves all of them.
  layout = sharding.Layout.of(config.Run(devices=1))
  program = Alone.of(runs[0], cfg, layout)
  batch = windows.training_batches(ids, T=T, sizes=stages(ROWS), seed=0, order='random')
  found = []
  for run in runs:
    state, hp, seen = step.new_state(run, cfg), optim.Hyper.of(run), []
    for i in range(run.steps):
      state, metrics = program.jitted(state, {}, program.put([batch(i)]), hp)
      seen.append(metrics['loss'])
    found.append(float(np.mean(seen[-run.steps // 10 :])))
  return found


def plot(rates: list[float], table: dict, target: str) -> None:
  """Writes a PNG: a panel for each parametrisation, a line for each width."""
  figure = matplotlib.figure.Figure(figsize=(9, 4), layout='constrained')
  panels = figure.subplots(1, 2, sharey=True)
  for (form, D), found in table.items():
    axes = panels[int(form == 'muP')]
    line = axes.plot(rates, found, marker='o', label=f'D = {D}')[0]
    best = int(np.nanargmin(found))
    axes.plot(rates[best], found[best], 's', color=line.get_color(), markersize=10)
    axes.set_title(form)
  for axes in panels:
    axes.set(xscale='log', xlabel='learning rate', xticks=rates, xticklabels=rates)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
  panels[0].set_ylabel('loss [nats/byte]')
  figure.savefig(target, dpi=130)


def main(argv: list[str]) -> None:
  """Prints the losses, and plots them if there is a target."""
  if len(argv) > 1:
    raise app.UsageError(f'there is no argument {argv[1]!r}; all are flags')
  rates = [float(rate) for rate in _RATES.value]
  text = '\n'.join(document.text for document in sources.python_docs())
  ids = np.frombuffer(text.encode(), np.uint8)
  print(f'{len(ids):,} bytes of text, {_STEPS.value} updates of {ROWS * T} bytes')
  line = '{:<9} {:>5}' + ' {:>8}' * len(rates) + '  {:>8} {:>8}'
  print(line.format('form', 'D', *rates, 'best', 'between'), flush=True)
  table, measured = {}, []
  for mup in (False, True):
    for D in map(int, _WIDTHS.value):
      form = 'muP' if mup else 'standard'
      found = table[form, D] = losses(D, mup, rates, ids)
      numbers = [f'{loss:.3f}' for loss in found]
      best = int(np.nanargmin(found))
      lowest = vertex(rates, found, best)
      between = f'{lowest:.4f}'
      at = f'{form}, width {D}'
      measured.append(Measured(f'nats/byte at the best rate, {at}', found[best]))
      if not math.isnan(lowest):
        measured.append(Measured(f'best rate, {at}', lowest))
      print(line.format(form, D, *numbers, rates[best], between), flush=True)
  if _TARGET.value:
    plot(rates, table, _TARGET.value)
  if _RESULT.value:
    committed.of_script(_RESULT.value, __file__, measured)


def vertex(rates: list[float], found: list[float], best: int) -> float:
  """Returns the rate at the lowest point of the parabola through the best three.

  In log(rate); NaN where the best rate is the first or the last.
  """
  if not 0 < best < len(rates) - 1:
    return math.nan
  near = slice(best - 1, best + 2)
  a, b, _ = np.polyfit(np.log(rates[near]), found[near], 2)
  return math.exp(-b / (2 * a))


if __name__ == '__main__':
  run_script(main)
