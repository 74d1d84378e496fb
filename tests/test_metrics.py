"""Metrics against their definitions."""

import itertools
import math

import numpy as np
import pytest

from gpt_jax.config import UserError
from gpt_jax.evaluation import metrics
from gpt_jax.tasks.labelled_table import TASKS

ALL = metrics.accuracy, metrics.f1, metrics.matthews, metrics.pearson, metrics.spearman


def test_every_metric_of_a_task_is_a_function_here():
  for task in TASKS.values():
    assert all(getattr(metrics, name) in ALL for name in task.metrics)


def test_metrics_of_classes_agree_with_counts_for_all_small_cases():
  for labels in itertools.product([0, 1], repeat=4):
    for said in itertools.product([0, 1], repeat=4):
      pairs = list(zip(said, labels, strict=True))
      tp, fp, fn, tn = (pairs.count(p) for p in [(1, 1), (1, 0), (0, 1), (0, 0)])
      assert metrics.accuracy(said, labels) == (tp + tn) / 4
      f1 = 0
      if tp:
        precision, recall = tp / (tp + fp), tp / (tp + fn)
        f1 = 2 * precision * recall / (precision + recall)
      assert metrics.f1(said, labels) == pytest.approx(f1)
      below = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
      wanted = (tp * tn - fp * fn) / math.sqrt(below) if below else 0
      assert metrics.matthews(said, labels) == pytest.approx(wanted, abs=1e-12)


def pearson(x, y):
  n = len(x)
  mean_x, mean_y = math.fsum(x) / n, math.fsum(y) / n
  xy = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
  xx = math.fsum((a - mean_x) ** 2 for a in x)
  yy = math.fsum((b - mean_y) ** 2 for b in y)
  return xy / math.sqrt(xx * yy)


def ranks(x):
  """The mean place of each value in the sorted list."""
  places = [[i for i, b in enumerate(sorted(x), 1) if b == a] for a in x]
  return [sum(p) / len(p) for p in places]


@pytest.mark.parametrize('levels', [3, 1000])  # with many ties, with few
def test_correlations_agree_with_their_definitions(levels):
  rng = np.random.default_rng(0)
  for size in (2, 7, 60, 300):
    x = np.append(rng.integers(levels, size=size) / 7, [0.0, 9.0])
    y = np.append(x[:-2] + rng.integers(levels, size=size), [3.0, 1.0])
    assert metrics.pearson(x, y) == pytest.approx(pearson(x, y), abs=1e-12)
    wanted = pearson(ranks(x), ranks(y))
    assert metrics.spearman(x, y) == pytest.approx(wanted, abs=1e-12)


def test_correlations_do_not_change_with_scale_and_place():
  x, y = np.array([1.0, 2.0, 4.0, 3.0]), np.array([0.1, 0.5, 0.4, 0.9])
  for scale in (1e-200, 1e200):
    assert metrics.pearson(scale * x, y) == pytest.approx(metrics.pearson(x, y))
  assert metrics.pearson(x, -3 * x + 7) == pytest.approx(-1)
  assert metrics.spearman(x, np.exp(x)) == pytest.approx(1)


@pytest.mark.parametrize('constant', [0, 1])
def test_one_answer_for_all_is_worth_nothing(constant):
  labels, same = np.array([0, 1, 1, 0]), np.full(4, constant)
  for metric in (metrics.matthews, metrics.pearson, metrics.spearman):
    assert metric(same, labels) == metric(labels, same) == metric(same, same) == 0
  assert metrics.pearson(np.full(3, 0.1), [1, 2, 3]) == 0  # its mean is not 0.1
  assert metrics.f1(0 * labels, labels) == metrics.f1(0 * labels, 0 * labels) == 0
  assert metrics.f1(1 + 0 * labels, labels) == pytest.approx(2 / 3)


@pytest.mark.parametrize('metric', ALL)
def test_bad_input_is_an_error(metric):
  with pytest.raises(UserError, match='one number for each example'):
    metric([0, 1], [0, 1, 1])
  with pytest.raises(UserError, match='one example at least'):
    metric([], [])
  with pytest.raises(UserError, match='prediction 1 is nan'):
    metric([0, math.nan], [0, 1])
  with pytest.raises(UserError, match='label 0 is inf'):
    metric([0, 1], [math.inf, 1])


@pytest.mark.parametrize('metric', [metrics.f1, metrics.matthews])
def test_a_third_class_is_an_error_where_there_are_two(metric):
  with pytest.raises(UserError, match='prediction 2 is 2; classes are 0 and 1'):
    metric([0, 1, 2], [0, 1, 1])
