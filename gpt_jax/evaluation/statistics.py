"""Confidence intervals of metrics, and tests of two models.

Intervals are 95 %. Examples, texts and runs are taken to be independent.
"""

import math
from typing import NamedTuple

import numpy as np
import scipy.special

from gpt_jax.config import UserError
from gpt_jax.evaluation.metrics import Metric, pairs


def interval(
  metric: Metric,
  predictions: np.ndarray,
  labels: np.ndarray,
  seed: int = 0,
  draws: int = 1000,
) -> tuple[float, float]:
  """Returns a 95 % bootstrap interval of a metric: (low, high).

  Examples are drawn with replacement, each prediction with its label, as many as there
  are; low and high are the 2.5 and 97.5 percentiles of the metric over the draws (Efron
  & Tibshirani 1993, section 13.3). It covers the choice of examples, not the training
  run. If questions share a passage, and so are not independent, it is too narrow.

  Args:
    metric: of `gpt_jax.evaluation.metrics`.
    predictions: [examples].
    labels: [examples].
    draws: how many times the examples are drawn.
  """
  predictions, labels = pairs(predictions, labels)
  # scipy.stats.bootstrap draws the same, but is slower and refuses a single example.
  rng = np.random.default_rng(seed)
  count = len(labels)
  values = np.empty(draws)
  for i in range(draws):
    drawn = rng.integers(count, size=count)
    values[i] = metric(predictions[drawn], labels[drawn])
  low, high = np.quantile(values, [0.025, 0.975])
  return float(low), float(high)


def spread(values: list[float]) -> dict[str, float]:
  """Returns mean, median, std, low and high of a metric over training runs.

  `std` is that of a sample; low and high are the 95 % interval of the mean, by
  Student's t. Of one run std is 0, and low and high are its value.
  """
  values = np.asarray(values, np.float64)
  mean, count = float(np.mean(values)), len(values)
  std = float(np.std(values, ddof=1)) if count > 1 else 0.0
  t = float(scipy.special.stdtrit(count - 1, 0.975)) if count > 1 else 0.0
  half = t * std / math.sqrt(count)
  return {
    'mean': mean,
    'median': float(np.median(values)),
    'std': std,
    'low': mean - half,
    'high': mean + half,
  }


class Paired(NamedTuple):
  """The difference of two models' losses on the same texts.

  Attributes:
    difference: second less first, for each unit of size.
    low, high: its 95 % interval.
    p: two-sided.
  """

  difference: float
  low: float
  high: float
  p: float
  count: int


def paired(first: np.ndarray, second: np.ndarray, size: np.ndarray) -> Paired:
  """Returns the paired test of two models' losses on the same texts.

  The difference is that of sums, sum(second - first) / sum(size): long texts count for
  more, as in bits per byte. Its standard error is that of a ratio (Cochran 1977,
  chapter 6), its interval and p are Student's. Where all sizes are equal this is the
  paired t test.

  Args:
    first: [texts], losses of the first model, such as bits.
    second: [texts], of the second.
    size: [texts], such as bytes.

  Raises:
    UserError: there are fewer than two texts, or not as many of each.
  """
  first, second = pairs(first, second)
  gap, size = second - first, np.asarray(size, np.float64)
  count = len(gap)
  if count < 2 or len(size) != count:
    raise UserError(
      f'{count} texts with {len(size)} sizes cannot be compared in pairs; there must '
      'be two or more, with a size for each'
    )
  mean = float(gap.sum() / size.sum())
  left = gap - mean * size
  error = math.sqrt(count / (count - 1) * float(left @ left)) / float(size.sum())
  half = float(scipy.special.stdtrit(count - 1, 0.975)) * error
  p = float(mean == 0)
  if error:
    p = 2 * float(scipy.special.stdtr(count - 1, -abs(mean) / error))
  return Paired(mean, mean - half, mean + half, p, count)


def wilson(right: int, count: int) -> tuple[float, float]:
  """Returns Wilson's 95 % interval (1927) of an accuracy: (low, high).

  Unlike the bootstrap's it is not empty if all or none are right.

  Raises:
    UserError: count is not positive, or right not from 0 to count.
  """
  if not (count > 0 and 0 <= right <= count):
    raise UserError(f'right={right} must be from 0 to count={count}, count above 0')
  from scipy import stats  # slow to import

  low, high = stats.binomtest(int(right), int(count)).proportion_ci(method='wilson')
  return float(low), float(high)
