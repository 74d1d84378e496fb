"""Intervals against how often they hold, and against known values."""

import math

import numpy as np
import pytest
from test_metrics import ALL

from gpt_jax.config import UserError
from gpt_jax.evaluation import metrics, statistics


def test_a_seed_s_bootstrap_interval_is_what_it_was():
  rng = np.random.default_rng(3)
  labels = rng.integers(2, size=872)
  predictions = np.where(rng.random(872) < 0.8, labels, 1 - labels)
  for metric, low, high in (  # stored results hold such numbers
    (metrics.accuracy, 0.7752293577981652, 0.8268348623853211),
    (metrics.matthews, 0.5503817005739762, 0.653559229162237),
  ):
    found = statistics.interval(metric, predictions, labels)
    assert found == pytest.approx((low, high), abs=1e-14)


def test_a_bootstrap_interval_of_an_accuracy_is_about_the_binomial_one():
  labels = np.ones(400)
  said = (np.arange(400) < 300).astype(int)
  low, high = statistics.interval(metrics.accuracy, said, labels, seed=0)
  half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
  assert low == pytest.approx(0.75 - half, abs=0.006)
  assert high == pytest.approx(0.75 + half, abs=0.006)
  again = statistics.interval(metrics.accuracy, said, labels, seed=0)
  assert again == (low, high)
  assert statistics.interval(metrics.accuracy, said, labels, seed=1) != again


def test_a_bootstrap_keeps_pairs_together():
  x = np.random.default_rng(2).normal(size=50)
  for metric in (metrics.pearson, metrics.spearman):
    low, high = statistics.interval(metric, x, x, draws=50)
    assert low == pytest.approx(1) and high == pytest.approx(1)


@pytest.mark.parametrize('metric', ALL)
def test_intervals_are_around_the_metric(metric):
  rng = np.random.default_rng(3)
  labels = rng.integers(2, size=120)
  said = np.where(rng.random(120) < 0.8, labels, 1 - labels)
  low, high = statistics.interval(metric, said, labels, draws=200)
  assert low < metric(said, labels) < high


def test_the_bootstrap_and_wilson_cover_the_truth_about_as_often_as_they_say():
  rng = np.random.default_rng(4)
  held = np.zeros(2)
  for seed in range(200):
    right = (rng.random(100) < 0.8).astype(int)
    a = statistics.interval(metrics.accuracy, right, np.ones(100), seed, draws=200)
    b = statistics.wilson(right.sum(), 100)
    held += [low <= 0.8 <= high for low, high in (a, b)]
  assert np.all(held / 200 > 0.9)
  assert np.all(held / 200 < 1)


def test_wilson_s_limits_are_where_a_test_of_the_share_just_rejects():
  z2 = 1.959963984540054**2
  for right, count in [(0, 10), (3, 10), (10, 10), (277, 374), (1, 1)]:
    low, high = statistics.wilson(right, count)
    assert 0 <= low <= right / count <= high <= 1
    for p in (low, high):
      if 0 < p < 1:
        wanted = z2 * p * (1 - p) / count
        assert (right / count - p) ** 2 == pytest.approx(wanted, rel=1e-9)
  assert statistics.wilson(0, 10) == (0, pytest.approx(0.277533, abs=1e-6))


@pytest.mark.parametrize(('right', 'count'), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_of_an_impossible_count_is_an_error(right, count):
  with pytest.raises(UserError, match='must be from 0 to count'):
    statistics.wilson(right, count)


def test_a_spread_is_that_of_a_sample_by_student_s_t():
  values = [0.3, 0.5, 0.4, 0.9]
  over = statistics.spread(values)
  mean, std = np.mean(values), np.sqrt(np.sum((values - np.mean(values)) ** 2) / 3)
  half = 3.182446305284263 * std / 2  # t of 3 degrees of freedom, 0.975
  assert over == {
    'mean': pytest.approx(mean),
    'median': pytest.approx(0.45),
    'std': pytest.approx(std),
    'low': pytest.approx(mean - half),
    'high': pytest.approx(mean + half),
  }
  assert set(statistics.spread([0.7]).values()) == {0.7, 0.0}
