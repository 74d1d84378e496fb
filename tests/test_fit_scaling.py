"""experiments/sweeps/fit_scaling.py: a law is found again, and predicts."""

import importlib.util
import pathlib

import numpy as np
import pytest

from gpt_jax.config import UserError

PATH = pathlib.Path(__file__).resolve().parent.parent
PATH = PATH / 'experiments/sweeps/fit_scaling.py'


def opened():
  spec = importlib.util.spec_from_file_location('fit_scaling', PATH)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


scaling = opened()
TRUE = scaling.Law(E=1.2, A=30.0, B=200.0, alpha=0.35, beta=0.4)


def points(noise, seed=0):
  rng = np.random.default_rng(seed)
  return [
    scaling.Point(N, D, 6 * N * D, TRUE.loss(N, D) * np.exp(noise * rng.normal()))
    for N in (2e4, 1e5, 4e5, 1.6e6)
    for D in (1e6, 3e6, 1e7, 3e7)
  ]


def test_a_law_without_noise_is_found_again():
  law = scaling.fit(points(0))
  for N, D in ((1e7, 1e8), (2e4, 1e6), (1e6, 1e6)):
    assert law.loss(N, D) == pytest.approx(TRUE.loss(N, D), rel=2e-3)
  assert law.alpha == pytest.approx(TRUE.alpha, rel=0.05)
  assert law.beta == pytest.approx(TRUE.beta, rel=0.05)


def test_one_wild_run_hardly_moves_the_law():
  wild = points(0)
  wild[5] = wild[5]._replace(L=3 * wild[5].L)
  law = scaling.fit(wild)
  assert law.loss(4e5, 1e7) == pytest.approx(TRUE.loss(4e5, 1e7), rel=0.02)


def test_a_larger_run_lies_in_the_interval():
  seen = points(0.004)
  law = scaling.fit(seen)
  laws = scaling.bootstrap(seen, law, 40)
  value, low, high = scaling.predicted(law, laws, seen, 6.4e6, 1e8)
  assert low < TRUE.loss(6.4e6, 1e8) < high and low < value < high
  assert (high - low) / value < 0.3


def test_too_few_runs_are_refused(tmp_path):
  with pytest.raises(UserError, match='4 runs are too few for 5 constants'):
    scaling.fit(points(0)[:4])
  with pytest.raises(UserError, match='holds no workdir'):
    scaling.read(str(tmp_path / '*'))


def test_the_plot_is_drawn(tmp_path):
  seen = points(0.004)
  unseen = [scaling.Point(6.4e6, 1e8, 4e15, 1.4)]
  scaling.plot(seen, TRUE, unseen, str(tmp_path / 'law.png'))
  assert (tmp_path / 'law.png').stat().st_size > 5000
