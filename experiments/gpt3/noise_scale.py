"""The gradient noise scale of a run's checkpoints: how large a batch is worth its cost.

Claim: published, that the noise scale grows as the loss falls, and predicts the batch
beyond which more rows save few updates; GPT-3 chose its batches by it (Brown et al.
2020, section 2.3). Source: McCandlish et al. 2018, "An empirical model of large-batch
training", equation 2.9 and appendix A.1. Cost: of each checkpoint about 100 updates.

  python experiments/gpt3/noise_scale.py --workdir=runs/quickstart

Where g_1 .. g_n are gradients of n batches of b rows each, and g their mean,

  |G|^2     = (n |g|^2 - mean |g_i|^2) / (n - 1)
  tr(Sigma) = b n / (n - 1) * (mean |g_i|^2 - |g|^2)

estimate without bias the square of the true gradient and the variance of that of one
row. The simple noise scale is tr(Sigma) / |G|^2 rows; with batches of that size a run
takes about twice the updates of one with endless batches, and twice the tokens of
one with the smallest. Several groups of n are averaged before the ratio is taken, and a
jackknife over them gives the 95 % interval. Dropout is left out.
"""

import math
import pathlib
import sys
from typing import NamedTuple

import jax
import numpy as np
import scipy.special
from absl import flags, logging

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from gpt_jax.cli.messages import run_script
from gpt_jax.config.length import stages
from gpt_jax.data import windows
from gpt_jax.data.windows import Batch
from gpt_jax.model.gpt import GPT
from gpt_jax.reports import committed
from gpt_jax.reports.committed import Measured
from gpt_jax.runs import workdir
from gpt_jax.runs.load import load
from gpt_jax.runs.tokens import prepared
from gpt_jax.training import manifest
from gpt_jax.training.objective import LanguageModeling

_WORKDIR = flags.DEFINE_string('workdir', None, 'folder of the run', required=True)
_RESULT = flags.DEFINE_string('result', '', 'file for experiments/table.py')
_ROWS = flags.DEFINE_integer('rows', 4, 'of a batch, b', lower_bound=1)
_BATCHES = flags.DEFINE_integer('batches', 16, 'of a group, n', lower_bound=2)
_GROUPS = flags.DEFINE_integer('groups', 16, 'that are averaged', lower_bound=2)


class Noise(NamedTuple):
  """What some gradients say: |G|^2, and tr(Sigma) of one row."""

  signal: float
  noise: float


def estimated(squares: np.ndarray, whole: float, rows: int) -> Noise:
  """Returns the two from the gradients of n batches.

  Args:
    squares: [n] squared norms of the gradients.
    whole: squared norm of their mean.
    rows: of each batch.
  """
  n, mean = len(squares), float(np.mean(squares))
  return Noise((n * whole - mean) / (n - 1), rows * n / (n - 1) * (mean - float(whole)))


def scale(groups: list[Noise]) -> tuple[float, float, float]:
  """Returns the noise scale in rows, and its 95 % interval by the jackknife.

  It is infinite where the estimate of |G|^2 is not positive: the gradient can't be told
  from its noise, and more groups are needed.
  """
  found = np.array(groups)
  whole, n = _ratio(found.mean(0)), len(found)
  left_out = (found.sum(0) - found) / (n - 1)
  parts = np.array([_ratio(pair) for pair in left_out])
  if not np.isfinite([whole, *parts]).all():
    return whole, 0.0, math.inf
  half = scipy.special.stdtrit(n - 1, 0.975) * np.sqrt(
    (n - 1) / n * ((parts - parts.mean()) ** 2).sum()
  )
  return whole, whole - half, whole + half


def _ratio(pair: np.ndarray) -> float:
  signal, noise = pair
  return float(noise / signal) if signal > 0 else math.inf


def of_rows(params: dict, gpt: GPT, rows: list[Batch]) -> Noise:
  """Returns what the gradients of equal batches say."""
  total, squares = None, []
  for batch in rows:
    gradient, square = _gradient(params, batch, gpt)
    squares.append(float(square))
    total = gradient if total is None else jax.tree.map(np.add, total, gradient)
  whole = sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(total))
  return estimated(np.array(squares), whole / len(rows) ** 2, rows[0].row_B.size)


@jax.jit
def _squared(tree):
  return sum((leaf**2).sum() for leaf in jax.tree.leaves(tree))


def _mean_nll(params, batch, gpt):
  objective = LanguageModeling(gpt)
  return objective.nll_sum(params, batch) / objective.count(batch)


_compiled = jax.jit(jax.grad(_mean_nll), static_argnums=2)


def _gradient(params, batch, gpt):
  gradient = _compiled(params, batch, gpt)
  return gradient, _squared(gradient)


def main(argv: list[str]) -> None:
  """Prints the noise scale of each checkpoint that the run keeps."""
  del argv
  logging.set_verbosity(logging.FATAL)  # Orbax tells much
  rows, n = _ROWS.value, _BATCHES.value
  run = workdir.read_run(_WORKDIR.value)
  data = prepared(run, pathlib.Path(_WORKDIR.value))
  steps = manifest.whole(pathlib.Path(_WORKDIR.value) / 'checkpoints')
  T = load(_WORKDIR.value, 'latest').config.T
  draw = windows.training_batches(
    data.train.ids,
    T=T,
    sizes=stages(rows),
    seed=run.seed + 1,  # other rows than those of the next updates
    order='random',
  )
  print(f'{_GROUPS.value} groups of {n} batches of {rows} rows of {T} tokens')
  print(f'the run has {run.batch} rows, {run.batch * T:,} tokens, an update')
  row = '{:>8} {:>11} {:>11} {:>13} {:>21}'.format
  print(row('update', '|G|^2', 'tr(Sigma)', 'scale, tokens', '95 %'))
  measured = []
  for number in steps:
    model = load(_WORKDIR.value, number)
    groups = [
      of_rows(model.params, model.gpt, [draw(g * n + i) for i in range(n)])
      for g in range(_GROUPS.value)
    ]
    found, low, high = (T * value for value in scale(groups))
    signal, noise = np.mean(groups, 0)
    between = f'[{low:,.0f}, {high:,.0f}]'
    of = f'tokens, noise scale after {number} updates'
    measured.append(Measured(of, float(found), float(low), float(high)))
    print(row(number, f'{signal:.3g}', f'{noise:.3g}', f'{found:,.0f}', between))
  if _RESULT.value:
    committed.of_script(_RESULT.value, __file__, measured)


if __name__ == '__main__':
  run_script(main)
