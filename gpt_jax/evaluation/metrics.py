"""Metrics of labelled tasks, and how sure they are, in numpy.

Each takes predictions and labels, one of each for an example, and returns a float:
`accuracy`, `f1` and `matthews` of classes, `pearson` and `spearman` of scores. They are
GLUE's (Wang et al. 2018, table 1). A fraction of nothing is 0, never nan: f1 where no
example is or is said to be positive, a correlation with a constant. So a model that
always gives one answer is the worst, and metrics can be compared and written down.

Raises, all of them: UserError where there are no examples, not as many predictions as
labels, or a number that is not finite.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.special

from gpt_jax.config import UserError

Metric = Callable[[np.ndarray, np.ndarray], float]
_Z = 1.959963984540054  # 97.5 % of the standard normal lie below it


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
  """Returns the share of predictions that are the label."""
  predictions, labels = _pairs(predictions, labels)
  return float(np.mean(predictions == labels))


def f1(predictions: np.ndarray, labels: np.ndarray) -> float:
  """Returns the harmonic mean of precision and recall of class 1, of classes 0 and 1.

  It is 2 TP / (2 TP + FP + FN), and 0 where that divides by 0.
  """
  predictions, labels = _binary(predictions, labels)
  positive = np.sum(predictions) + np.sum(labels)
  return float(2 * np.sum(predictions * labels) / positive) if positive else 0.0


def matthews(predictions: np.ndarray, labels: np.ndarray) -> float:
  """Returns Matthews' correlation (1975) of two classes, 0 and 1.

  It is Pearson's correlation of the two, and 0 where either has one class only.
  """
  return pearson(*_binary(predictions, labels))


def pearson(predictions: np.ndarray, labels: np.ndarray) -> float:
  """Returns Pearson's correlation, and 0 where either is constant."""
  predictions, labels = _pairs(predictions, labels)
  if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
    return 0.0
  # Scaled first: the square of a tiny or a huge deviation need not be a float.
  x, y = (v - np.mean(v) for v in (predictions, labels))
  x, y = x / np.max(np.abs(x)), y / np.max(np.abs(y))
  r = np.sum(x * y) / math.sqrt(np.sum(x * x) * np.sum(y * y))
  return float(np.clip(r, -1, 1))


def spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
  """Returns Pearson's correlation of ranks, and 0 where either is constant.

  Equal values all have the mean of their ranks.
  """
  predictions, labels = _pairs(predictions, labels)
  return pearson(_ranks(predictions), _ranks(labels))


def _ranks(values: np.ndarray) -> np.ndarray:
  """Returns twice the rank of each value, less a constant; ties share their mean."""
  ordered = np.sort(values)
  below = np.searchsorted(ordered, values, 'left')
  return below + np.searchsorted(ordered, values, 'right')


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
  & Tibshirani 1993, section 13.3). It tells how much other test examples would change
  the metric, not another training run. Examples are taken to be independent, which the
  questions about one passage are not: there it is too narrow.

  Args:
    metric: one of those above.
    predictions: [examples].
    labels: [examples].
    seed: of the draws; the same seed gives the same interval.
    draws: how many.
  """
  predictions, labels = _pairs(predictions, labels)
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
  Student's t. One run has no spread that could be known: std is 0, low and high are
  its value.
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
  """What two models differ by on the same texts.

  Attributes:
    difference: of the second from the first, for each unit of size.
    low, high: its 95 % interval.
    p: of a difference as large or larger if there were none, two-sided.
    count: of texts.
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
  paired t test. Texts are taken to be independent.

  Args:
    first: [texts], losses of the first model, such as bits.
    second: [texts], of the second.
    size: [texts], such as bytes.

  Raises:
    UserError: there are fewer than two texts, or not as many of each.
  """
  first, second = _pairs(first, second)
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

  Unlike the bootstrap's it is not empty where all or none are right.

  Args:
    right: examples that are right.
    count: of examples.

  Raises:
    UserError: count is not positive, or right not from 0 to count.
  """
  if not (count > 0 and 0 <= right <= count):
    raise UserError(f'right={right} must be from 0 to count={count}, count above 0')
  share, z2 = right / count, _Z * _Z
  middle = (share + z2 / (2 * count)) / (1 + z2 / count)
  spread = math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
  half = _Z * spread / (1 + z2 / count)
  # Rounding must not leave out an accuracy of 0 or 1.
  return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))


def _pairs(
  predictions: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns both as float64 [examples]."""
  predictions = np.asarray(predictions, np.float64)
  labels = np.asarray(labels, np.float64)
  if predictions.shape != labels.shape or labels.ndim != 1 or not labels.size:
    raise UserError(
      f'predictions {list(predictions.shape)} and labels {list(labels.shape)} must '
      'have one number for each example, and one example at least'
    )
  for name, values in (('prediction', predictions), ('label', labels)):
    if not np.all(np.isfinite(values)):
      at = int(np.argmin(np.isfinite(values)))
      raise UserError(f'{name} {at} is {values[at]}; it must be a finite number')
  return predictions, labels


def _binary(
  predictions: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns both, checked to be classes 0 and 1."""
  pairs = _pairs(predictions, labels)
  for name, values in zip(('prediction', 'label'), pairs, strict=True):
    wrong = np.flatnonzero((values != 0) & (values != 1))
    if wrong.size:
      raise UserError(f'{name} {wrong[0]} is {values[wrong[0]]:g}; classes are 0 and 1')
  return pairs
