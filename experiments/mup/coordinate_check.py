"""Do activations change alike at every width? The coordinate check of muP.

Claim: under the maximal update parametrisation a few updates of Adam change logits and
residual stream by amounts that hardly depend on the width; under the standard one the
changes grow with it. Source: Yang et al. 2022 (Tensor Programs V), figure 5 and section
D.1. Cost: 100 seconds of CPU time.

  python experiments/mup/coordinate_check.py [--target=coordinates.png] [--fixed_heads]

The slopes are those of a straight line through log(change) against log(width): 0 is no
growth, 1 is growth in proportion. A slope of muP is 0 for wide models only: where an
update does not move the logits of a batch one way, their change is a sum of random
signs, which falls as 1 / sqrt(width) until the common part is all that is left.
"""

import pathlib
import sys

import jax
import matplotlib.figure
import numpy as np
from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from gpt_jax import config
from gpt_jax.cli.messages import run_script
from gpt_jax.data.windows import Batch
from gpt_jax.model.gpt import GPT, Block, unembed
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.reports import committed
from gpt_jax.reports.committed import Measured
from gpt_jax.training import sharding, step
from gpt_jax.training.members import Alone

LAYERS, HEAD, VOCAB, T, ROWS = 2, 16, 128, 32, 8
BASE, UPDATES = 64, 5
PARTS = 'residual stream', 'logits'

_RESULT = flags.DEFINE_string('result', '', 'file for experiments/table.py')
_WIDTHS = flags.DEFINE_list('widths', '64,128,256,512,1024', 'multiples of 64')
_LR = flags.DEFINE_float('lr', 3e-3, 'learning rate of all updates')
_OPTIMIZER = flags.DEFINE_enum('optimizer', 'adamw', ['adamw', 'muon'], 'of kernels')
_FIXED_HEADS = flags.DEFINE_bool('fixed_heads', False, 'wider heads instead of more')
_SEEDS = flags.DEFINE_integer('seeds', 2, 'draws of weights that are averaged')
_TARGET = flags.DEFINE_string('target', None, 'PNG of the changes against the width')


def run_of(
  D: int, mup: bool, *, base: int, fixed_heads: bool, lr: float, name: str = 'adamw'
) -> config.Run:
  """Returns a run of a model of width D, with heads of 16 or as many as at `base`."""
  N = (base if fixed_heads else D) // HEAD
  model = config.Model(L=LAYERS, D=D, N=N, T=T, vocab=VOCAB)
  if mup:
    model.mup_base, model.mup_base_N = base, base // HEAD
  rates = config.Optim(
    name=name, lr=lr, schedule='constant', warmup=0, weight_decay=0.0, clip=0.0
  )
  run = config.Run(steps=UPDATES, batch=ROWS, model=model, optim=rates)
  config.check(run)
  return run


def changes(run: config.Run, seed: int = 0) -> dict[str, list[float]]:
  """Returns, by part, the mean |x_t - x_0| after t = 1 .. UPDATES updates.

  All updates are on one batch, on which the activations x are measured too. Low ids are
  more frequent, as some words of a text are.
  """
  cfg = GPTConfig.of(run.model, VOCAB)
  ids = np.random.default_rng(seed).random((ROWS, T + 1)) ** 3 * VOCAB
  ids = ids.astype(np.int32)
  rows = np.arange(ROWS, dtype=np.int32)
  batch = Batch(ids[:, :-1], ids[:, 1:], np.ones((ROWS, T), np.float32), rows)

  @jax.jit
  def activations(params):
    (x_BTD, _), kept = GPT(cfg).apply(
      {'params': params},
      batch.ids_BT,
      capture_intermediates=lambda module, _: isinstance(module, Block),
      mutable='intermediates',
    )
    logits_BTV = unembed(GPT(cfg), params, x_BTD)
    return dict(zip(PARTS, (jax.tree.leaves(kept)[-1], logits_BTV), strict=True))

  run.seed = seed
  program = Alone.of(run, cfg, sharding.Layout.of(config.Run(devices=1)))
  placed, state = program.put([batch]), step.new_state(run, cfg)
  first = activations(state.params)
  found = {part: [] for part in PARTS}
  for _ in range(UPDATES):
    state, _ = program.update(state, placed)
    for part, now in activations(program.weights(state, 0)).items():
      found[part].append(float(np.abs(now - first[part]).mean()))
  return found


def slope(widths: list[int], sizes: list[float]) -> float:
  """Returns the exponent of the power of the width that fits the sizes best."""
  return float(np.polyfit(np.log(widths), np.log(sizes), 1)[0])


def measured(widths, mup, seeds, **fields) -> dict[str, np.ndarray]:
  """Returns by part an array [updates, widths] of changes, the mean over seeds."""
  found = [
    [changes(run_of(D, mup, **fields), seed) for D in widths] for seed in range(seeds)
  ]
  return {
    part: np.mean([[of[part] for of in row] for row in found], axis=0).T
    for part in PARTS
  }


def plot(widths: list[int], tables: dict[bool, dict], target: str) -> None:
  """Writes a PNG: a panel for each part and parametrisation, a line for each update."""
  figure = matplotlib.figure.Figure(figsize=(9, 6), layout='constrained')
  panels = figure.subplots(len(PARTS), 2, sharex=True, sharey='row')
  for row, part in zip(panels, PARTS, strict=True):
    for axes, (mup, table) in zip(row, sorted(tables.items()), strict=True):
      for t, sizes in enumerate(table[part], 1):
        axes.plot(widths, sizes, marker='o', label=f'{t}', color=f'C{t}')
      axes.set(xscale='log', yscale='log', xticks=widths, xticklabels=widths)
      axes.minorticks_off()
      axes.grid(alpha=0.3)
      axes.set_title(f'{part}, {"muP" if mup else "standard"}')
    row[0].set_ylabel('mean |change|')
  for axes in panels[-1]:
    axes.set_xlabel('width D')
  panels[0, 0].legend(title='updates', fontsize='small')
  figure.savefig(target, dpi=130)


def main(argv: list[str]) -> None:
  """Prints the table of changes, and plots it if there is a target."""
  if len(argv) > 1:
    raise app.UsageError(f'there is no argument {argv[1]!r}; all are flags')
  widths = [int(D) for D in _WIDTHS.value]
  if any(D < BASE or D % BASE for D in widths):
    raise app.UsageError(f'--widths={",".join(_WIDTHS.value)} must be multiples of 64')
  fields = {
    'base': BASE,
    'fixed_heads': _FIXED_HEADS.value,
    'lr': _LR.value,
    'name': _OPTIMIZER.value,
  }
  tables = {mup: measured(widths, mup, _SEEDS.value, **fields) for mup in (False, True)}
  line = '{:<16} {:<9} {:>8}' + ' {:>9}' * len(widths) + ' {:>7}'
  print(line.format('mean |change|', 'form', 'updates', *widths, 'slope'))
  slopes = []
  for part in PARTS:
    for mup, table in tables.items():
      for t in (1, UPDATES):
        sizes = table[part][t - 1]
        numbers = [f'{size:.3g}' for size in sizes] + [f'{slope(widths, sizes):+.2f}']
        form = 'muP' if mup else 'standard'
        print(line.format(part, form, t, *numbers))
        if t == UPDATES:
          what = f'slope of {part}, {form}, after {t} updates'
          slopes.append(Measured(what, slope(widths, sizes)))
  if _TARGET.value:
    plot(widths, tables, _TARGET.value)
  if _RESULT.value:
    committed.of_script(_RESULT.value, __file__, slopes)


if __name__ == '__main__':
  run_script(main)
