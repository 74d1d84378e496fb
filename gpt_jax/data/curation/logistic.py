"""Logistic regression over counts of terms, by L-BFGS.

The library scikit-learn is not among the requirements, and scipy, which is, has all
that is needed: sparse rows and L-BFGS (Liu & Nocedal 1989), which Spark's own uses too.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.sparse
import scipy.special

from gpt_jax.config import UserError

_STEPS = 200


class Classifier(NamedTuple):
  """Weights of a logistic regression.

  Attributes:
    weights: [buckets] float32.
    bias: of all documents.
  """

  weights: np.ndarray
  bias: float

  def score(self, buckets: np.ndarray) -> float:
    """Returns the probability that a document is of the first class.

    Args:
      buckets: of its terms, each as often as it occurs.
    """
    total = self.weights[buckets].sum(dtype=np.float64) + self.bias
    return float(scipy.special.expit(total))


def rows(
  counted: Sequence[tuple[np.ndarray, np.ndarray]], size: int
) -> scipy.sparse.csr_array:
  """Returns documents as rows of counts, [D, size] float32.

  Args:
    counted: of each document its buckets and their counts.
  """
  # scipy keeps all indices as wide as these: of 32 bits, they are half the memory.
  ends = np.cumsum([0, *(len(buckets) for buckets, _ in counted)], dtype=np.int32)
  buckets = np.concatenate([np.empty(0, np.int32), *(each[0] for each in counted)])
  counts = np.concatenate([np.empty(0, np.float32), *(each[1] for each in counted)])
  return scipy.sparse.csr_array(
    (counts.astype(np.float32), buckets.astype(np.int32), ends),
    shape=(len(counted), size),
  )


def fit(x: scipy.sparse.csr_array, y: np.ndarray, l2: float) -> Classifier:
  """Returns the classifier of the least mean of -log p + l2/2 |weights|^2.

  Both classes weigh the same in the mean, however many documents they have, so that at
  a score of 0.5 a document is as much like the one as like the other. The bias has no
  penalty. `l2` is what Spark calls regParam.

  Args:
    x: counts, [D, buckets].
    y: [D] booleans, true of the first class.

  Raises:
    UserError: all documents are of one class.
  """
  if y.all() or not y.any():
    raise UserError('a classifier needs documents of both classes; give more sources')
  signs = np.where(y, 1.0, -1.0)
  shares = np.where(y, 0.5 / y.sum(), 0.5 / (~y).sum())
  # A term of no document keeps the weight 0, so only those that occur are fitted.
  size = x.shape[1]
  occur = np.flatnonzero(np.bincount(x.indices, minlength=size))
  place = np.zeros(size, np.int32)
  place[occur] = np.arange(len(occur))
  data = x.data.astype(np.float64)  # once, not in each product
  x = scipy.sparse.csr_array(
    (data, place[x.indices], x.indptr), shape=(len(y), len(occur))
  )
  transposed = x.T  # columns for rows: the same arrays

  def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
    weights, bias = parameters[:-1], parameters[-1]
    margins = signs * (x @ weights + bias)
    value = -(shares * scipy.special.log_expit(margins)).sum()
    slope = -shares * signs * scipy.special.expit(-margins)
    gradient = transposed @ slope + l2 * weights
    return value + l2 / 2 * (weights**2).sum(), np.append(gradient, slope.sum())

  found = scipy.optimize.minimize(
    loss,
    np.zeros(len(occur) + 1),
    jac=True,
    method='L-BFGS-B',
    options={'maxiter': _STEPS, 'gtol': 1e-7, 'ftol': 1e-12},
  )
  weights = np.zeros(size, np.float32)
  weights[occur] = found.x[:-1]
  return Classifier(weights, float(found.x[-1]))


def area(scores: np.ndarray, y: np.ndarray) -> float:
  """Returns the area under the ROC curve: how often a true one has the higher score.

  Equal scores count half (Mann & Whitney 1947).
  """
  _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
  ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
  positive = int(y.sum())
  above = ranks[y].sum() - positive * (positive + 1) / 2
  return float(above / (positive * (len(y) - positive)))
