"""Metrics of labelled tasks: GLUE's (Wang et al. 2018, table 1).

Each takes predictions and labels, one of each for an example, and returns a float:
`accuracy`, `f1` and `matthews` of classes, `pearson` and `spearman` of scores. None of
them is ever nan: f1 is 0 if no example is or is predicted to be positive, and so is a
correlation with a constant.

All raise a UserError if there are no examples, not as many predictions as labels, or a
number that is not finite.
"""

from collections.abc import Callable

import numpy as np

from gpt_jax.config import UserError

Metric = Callable[[np.ndarray, np.ndarray], float]


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
  """Returns the share of predictions that are the label."""
  predictions, labels = pairs(predictions, labels)
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
  return _correlation('pearsonr', predictions, labels)


def spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
  """Returns Spearman's correlation of ranks, and 0 where either is constant."""
  return _correlation('spearmanr', predictions, labels)


def _correlation(name: str, predictions: np.ndarray, labels: np.ndarray) -> float:
  from scipy import stats  # slow to import

  x, y = pairs(predictions, labels)
  if np.ptp(x) == 0 or np.ptp(y) == 0:
    return 0.0
  return float(getattr(stats, name)(x, y).statistic)


def pairs(predictions: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
  classes = pairs(predictions, labels)
  for name, values in zip(('prediction', 'label'), classes, strict=True):
    wrong = np.flatnonzero((values != 0) & (values != 1))
    if wrong.size:
      raise UserError(f'{name} {wrong[0]} is {values[wrong[0]]:g}; classes are 0 and 1')
  return classes
