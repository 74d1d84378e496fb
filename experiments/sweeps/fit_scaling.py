"""Fits a scaling law to finished runs, and predicts runs that the fit has not seen.

Claim: published, that loss is a smooth function of parameters N and tokens D; GPT-3's
runs lie along a power law of compute (Brown et al. 2020, figure 3.1; Kaplan et al.
2020). Source: the form and its fit are those of Hoffmann et al. 2022 (section 3.3,
"approach 3"):

  L(N, D) = E + A / N^alpha + B / D^beta

by the least sum of Huber losses (delta 1e-3) of log L, from many starts. Cost: seconds,
once the runs are there.

  python launch.py sweep --config=experiments/sweeps/scaling_run.py \
    --sweep=experiments/sweeps/scaling.py --workdir=runs/scaling
  python experiments/sweeps/fit_scaling.py --runs='runs/scaling/*' \
    --predict=runs/large --target=scaling.png

N counts the parameters without embeddings, D the tokens that were trained on, L is the
last held-out loss [nats/token]. Intervals are of the percentile bootstrap over runs;
that of a prediction has the spread of the fit's own residuals in it, drawn anew.
"""

import glob
import math
import pathlib
import sys
from typing import NamedTuple

import matplotlib.figure
import numpy as np
import scipy.optimize
from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from gpt_jax import config
from gpt_jax.cli.messages import run_script
from gpt_jax.config import UserError
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.reports import committed
from gpt_jax.reports.committed import Measured
from gpt_jax.runs import cost, workdir
from gpt_jax.runs.load import load
from gpt_jax.training.metrics_log import read_metrics

_RUNS = flags.DEFINE_string('runs', None, 'glob of the workdirs', required=True)
_PREDICT = flags.DEFINE_string('predict', '', 'glob of workdirs left out of the fit')
_TARGET = flags.DEFINE_string('target', None, 'PNG of loss against compute')
_RESULT = flags.DEFINE_string('result', '', 'file for experiments/table.py')
_DRAWS = flags.DEFINE_integer('draws', 200, 'of the bootstrap', lower_bound=20)

_DELTA = 1e-3
_EMBEDDINGS = 'wte', 'wpe', 'lm_head'
_LEAST = 8  # different sizes and lengths: of fewer a bootstrap would say nothing
_NAMES = 'E', 'A', 'B', 'alpha', 'beta'


class Point(NamedTuple):
  """A finished run: N parameters, D tokens, C FLOPs, loss L [nats/token]."""

  N: float
  D: float
  C: float
  L: float
  name: str = ''


class Law(NamedTuple):
  """L(N, D) = E + A / N^alpha + B / D^beta."""

  E: float
  A: float
  B: float
  alpha: float
  beta: float

  def loss(self, N: np.ndarray, D: np.ndarray) -> np.ndarray:
    """Returns the loss of models of N parameters after D tokens [nats/token]."""
    return self.E + self.A / N**self.alpha + self.B / D**self.beta


def read(pattern: str) -> list[Point]:
  """Returns the finished runs among the folders of a glob, those to fit or to predict.

  Raises:
    UserError: there is none, or one is not finished.
  """
  found = []
  for folder in sorted(map(pathlib.Path, glob.glob(pattern))):
    if not (folder / 'run.json').exists():
      continue
    run, lines = workdir.read_run(folder), read_metrics(folder)
    ends = [line for line in lines if line['step'] == run.steps and 'valid_nll' in line]
    if not ends:
      raise UserError(f'{folder} is not finished: no held-out loss of {run.steps}')
    cfg = GPTConfig.of(run.model, load(folder).config.vocab)
    parts = cost.parameters_by_part(cfg)
    N = sum(size for part, size in parts.items() if part not in _EMBEDDINGS)
    D = config.tokens_read(run)
    C = D * sum(cost.flops_per_token(cfg).values())
    found.append(Point(N, D, C, ends[-1]['valid_nll'], folder.name))
  if not found:
    raise UserError(f'{pattern} holds no workdir')
  return found


def check(points: list[Point]) -> None:
  """Raises UserError where there are too few runs for a fit and its intervals."""
  different = len({(p.N, p.D) for p in points})
  if different < _LEAST:
    raise UserError(
      f'the runs have {different} different sizes and lengths; give at least {_LEAST} '
      f'for {len(_NAMES)} constants and their intervals'
    )


def fit(points: list[Point], starts: list[np.ndarray] | None = None) -> Law:
  """Returns the law of least Huber loss.

  Args:
    points: the runs, of at least 8 different sizes and lengths.
    starts: where to look from, (log E, log A, log B, alpha, beta) each; None: a grid.

  Returns:
    The law.
  """
  N, D, _, L, *_ = (np.array(x) for x in zip(*(p[:4] for p in points), strict=True))
  log_N, log_D, log_L = np.log(N), np.log(D), np.log(L)

  def terms(x):
    each = np.stack(
      [np.full_like(log_N, x[0]), x[1] - x[3] * log_N, x[2] - x[4] * log_D]
    )
    return each, np.logaddexp.reduce(each, axis=0)

  def off(x):
    return terms(x)[1] - log_L

  def jacobian(x):
    each, whole = terms(x)
    e, a, b = np.exp(each - whole)
    return np.stack([e, a, b, -a * log_N, -b * log_D], axis=1)

  low, high = [-5, -5, -5, 0.02, 0.02], [3, 40, 40, 2, 2]
  tried = [
    scipy.optimize.least_squares(
      off,
      np.clip(x, np.array(low) + 1e-6, np.array(high) - 1e-6),
      jacobian,
      bounds=(low, high),
      loss='huber',
      f_scale=_DELTA,
      x_scale='jac',
      max_nfev=300,
    )
    for x in (_grid() if starts is None else starts)
  ]
  x = min(tried, key=lambda one: one.cost).x
  return Law(*np.exp(x[:3]), *x[3:])


def _grid() -> list[np.ndarray]:
  """Returns starts: each term between a part of the loss and all of it."""
  return [
    np.array([e, a, b, alpha, beta])
    for e in (-1.0, 0.5)
    for a in (2.0, 7.0)
    for b in (2.0, 7.0)
    for alpha in (0.2, 0.5)
    for beta in (0.2, 0.5)
  ]


def bootstrap(points: list[Point], law: Law, draws: int, seed: int = 0) -> list[Law]:
  """Returns the laws of runs drawn with replacement, each found from the law of all."""
  rng = np.random.default_rng(seed)
  start = np.array([*np.log(law[:3]), *law[3:]])
  found = []
  while len(found) < draws:
    drawn = [points[i] for i in rng.integers(0, len(points), len(points))]
    if len({(p.N, p.D) for p in drawn}) >= len(_NAMES):
      found.append(fit(drawn, [start]))
  return found


def interval(values: np.ndarray) -> tuple[float, float]:
  """Returns the middle 95 % of values."""
  low, high = np.quantile(values, [0.025, 0.975])
  return float(low), float(high)


def predicted(
  law: Law, laws: list[Law], points: list[Point], N: float, D: float, seed: int = 0
) -> tuple[float, float, float]:
  """Returns the loss that is predicted, and its 95 % interval."""
  rng = np.random.default_rng(seed)
  off = np.log([p.L for p in points]) - np.log([law.loss(p.N, p.D) for p in points])
  off *= math.sqrt(len(points) / max(1, len(points) - len(_NAMES)))
  draws = [
    each.loss(N, D) * np.exp(rng.choice(off)) for each in laws for _ in range(20)
  ]
  return float(law.loss(N, D)), *interval(np.array(draws))


def plot(points: list[Point], law: Law, unseen: list[Point], target: str) -> None:
  """Draws loss against compute as GPT-3's figure 3.1 does, and the law's frontier."""
  figure = matplotlib.figure.Figure(figsize=(7, 4.5), layout='constrained')
  axes = figure.subplots()
  sizes = sorted({p.N for p in [*points, *unseen]})
  colours = matplotlib.colormaps['viridis'](np.linspace(0, 0.9, len(sizes)))
  for N, colour in zip(sizes, colours, strict=True):
    some = [p for p in points if p.N == N]
    axes.plot([p.C for p in some], [p.L for p in some], 'o', color=colour)
    other = [p for p in unseen if p.N == N]
    axes.plot([p.C for p in other], [p.L for p in other], '*', color=colour, ms=13)
    each = (some or other)[0]
    tokens = np.geomspace(
      min(p.D for p in points) / 2, 2 * max(p.D for p in [*points, *unseen])
    )
    label = f'{N:,.0f} parameters' + (' (not in the fit)' if not some else '')
    axes.plot(
      tokens * each.C / each.D, law.loss(N, tokens), color=colour, lw=1, label=label
    )
  axes.set(xscale='log', xlabel='compute [FLOPs]', ylabel='held-out loss [nats/token]')
  axes.grid(alpha=0.3)
  axes.legend(fontsize=8)
  figure.savefig(target, dpi=110)


def main(argv: list[str]) -> None:
  """Prints the law, its intervals and what it predicts."""
  del argv
  points = read(_RUNS.value)
  unseen = read(_PREDICT.value) if _PREDICT.value else []
  check(points)
  law = fit(points)
  laws = bootstrap(points, law, _DRAWS.value)
  print(f'{len(points)} runs, {min(p.C for p in points):.2e} .. '
        f'{max(p.C for p in points):.2e} FLOPs')  # fmt: skip
  measured = []
  for name, value, drawn in zip(_NAMES, law, zip(*laws, strict=True), strict=True):
    low, high = interval(np.array(drawn))
    measured.append(Measured(name, value, low, high))
    print(f'{name:6} {value:.4g} [{low:.4g}, {high:.4g}]')
  off = [abs(math.log(law.loss(p.N, p.D) / p.L)) for p in points]
  print(
    f'a run lies {100 * np.mean(off):.2f} % off the law, at most {100 * max(off):.2f}'
  )
  for p in unseen:
    value, low, high = predicted(law, laws, points, p.N, p.D)
    inside = 'inside' if low <= p.L <= high else 'outside'
    of = f'nats/token of a run of {p.C:.2e} FLOPs'
    measured.append(Measured(f'{of} predicted', value, low, high))
    measured.append(Measured(f'{of} measured ({inside} the interval)', p.L))
    print(
      f'{p.name}: N {p.N:,.0f}, D {p.D:,.0f}, {p.C:.2e} FLOPs: predicted {value:.4f} '
      f'[{low:.4f}, {high:.4f}], measured {p.L:.4f}, {inside}'
    )
  if _TARGET.value:
    plot(points, law, unseen, _TARGET.value)
  if _RESULT.value:
    committed.of_script(_RESULT.value, __file__, measured)


if __name__ == '__main__':
  run_script(main)
