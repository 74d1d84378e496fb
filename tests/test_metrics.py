"""Metrics against their definitions, and intervals against how often they hold."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats  # which jax requires

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
  for size in (2, 7, 60):
    x = np.append(rng.integers(levels, size=size) / 7, [0.0, 9.0])
    y = np.append(x[:-2] + rng.integers(levels, size=size), [3.0, 1.0])
    assert metrics.pearson(x, y) == pytest.approx(pearson(x, y), abs=1e-12)
    wanted = pearson(ranks(x), ranks(y))
    assert metrics.spearman(x, y) == pytest.approx(wanted, abs=1e-12)


def test_correlations_agree_with_scipy():
  rng = np.random.default_rng(1)
  x = rng.integers(12, size=300) / 4
  y = x + rng.normal(size=300)
  assert metrics.pearson(x, y) == pytest.approx(stats.pearsonr(x, y)[0], abs=1e-12)
  assert metrics.spearman(x, y) == pytest.approx(stats.spearmanr(x, y)[0], abs=1e-12)


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


def test_a_bootstrap_interval_of_an_accuracy_is_about_the_binomial_one():
  labels = np.ones(400)
  said = (np.arange(400) < 300).astype(int)
  low, high = metrics.interval(metrics.accuracy, said, labels, seed=0)
  half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
  assert low == pytest.approx(0.75 - half, abs=0.006)
  assert high == pytest.approx(0.75 + half, abs=0.006)
  again = metrics.interval(metrics.accuracy, said, labels, seed=0)
  assert again == (low, high)
  assert metrics.interval(metrics.accuracy, said, labels, seed=1) != again


def test_a_bootstrap_keeps_pairs_together():
  x = np.random.default_rng(2).normal(size=50)
  for metric in (metrics.pearson, metrics.spearman):
    low, high = metrics.interval(metric, x, x, draws=50)
    assert low == pytest.approx(1) and high == pytest.approx(1)


@pytest.mark.parametrize('metric', ALL)
def test_intervals_are_around_the_metric(metric):
  rng = np.random.default_rng(3)
  labels = rng.integers(2, size=120)
  said = np.where(rng.random(120) < 0.8, labels, 1 - labels)
  low, high = metrics.interval(metric, said, labels, draws=200)
  assert low < metric(said, labels) < high


def test_the_bootstrap_and_wilson_cover_the_truth_about_as_often_as_they_say():
  rng = np.random.default_rng(4)
  held = np.zeros(2)
  for seed in range(200):
    right = (rng.random(100) < 0.8).astype(int)
    a = metrics.interval(metrics.accuracy, right, np.ones(100), seed, draws=200)
    b = metrics.wilson(right.sum(), 100)
    held += [low <= 0.8 <= high for low, high in (a, b)]
  assert np.all(held / 200 > 0.9)
  assert np.all(held / 200 < 1)


def test_wilson_s_limits_are_where_a_test_of_the_share_just_rejects():
  z2 = 1.959963984540054**2
  for right, count in [(0, 10), (3, 10), (10, 10), (277, 374), (1, 1)]:
    low, high = metrics.wilson(right, count)
    assert 0 <= low <= right / count <= high <= 1
    for p in (low, high):
      if 0 < p < 1:
        wanted = z2 * p * (1 - p) / count
        assert (right / count - p) ** 2 == pytest.approx(wanted, rel=1e-9)
  assert metrics.wilson(0, 10) == (0, pytest.approx(0.277533, abs=1e-6))


@pytest.mark.parametrize(('right', 'count'), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_of_an_impossible_count_is_an_error(right, count):
  with pytest.raises(UserError, match='must be from 0 to count'):
    metrics.wilson(right, count)
