"""experiments/sweeps/fit_scaling.py: a law is found again, and predicts."""

import matplotlib.figure
import numpy as np
import pytest
from scripts import opened

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.runs import train
from gpt_jax.training import metrics_log

scaling = opened('sweeps/fit_scaling.py')
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


def test_a_folder_without_runs_is_refused(tmp_path):
  with pytest.raises(UserError, match='holds no workdir'):
    scaling.read(str(tmp_path / '*'))


def test_runs_are_read_as_they_were_trained(tmp_path):
  (tmp_path / 'text').mkdir()
  (tmp_path / 'text/a.txt').write_text(
    'the cat sees a bird and the dog hears it. ' * 40
  )
  run = config.Run(
    steps=2,
    batch=4,
    devices=1,
    sample_tokens=0,
    data=config.Data(source=str(tmp_path / 'text'), tokenizer='bytes', holdout=0.2),
    model=config.Model(L=2, D=16, N=2, T=8, bias=False),
    optim=config.Optim(warmup=0),
  )
  train.train(run, tmp_path / 'run', report=lambda text: None)
  (point,) = scaling.read(str(tmp_path / 'run*'))
  kernels = 2 * 12 * 16 * 16  # of attention and MLP
  scales = (2 * 2 + 1) * 16  # of LayerNorms
  N, D, C, L, _ = point
  assert (kernels + scales, 2 * 4 * 8) == (N, D)
  assert D * (6 * (kernels + 257 * 16) + 12 * 2 * 16 * 8) == C
  (*_, last) = metrics_log.read_metrics(tmp_path / 'run')
  assert last['valid_nll'] == L
  (tmp_path / 'run/run.json').write_text(
    (tmp_path / 'run/run.json').read_text().replace('"steps": 2', '"steps": 9')
  )
  with pytest.raises(UserError, match='is not finished: no held-out loss of 9'):
    scaling.read(str(tmp_path / 'run*'))


def test_too_few_different_runs_are_refused():
  scaling.check(points(0)[:8])
  with pytest.raises(UserError, match='7 different sizes and lengths; give at least 8'):
    scaling.check(3 * points(0)[:7])


def test_the_plot_is_drawn(tmp_path, monkeypatch):
  seen = points(0.004)
  unseen = [scaling.Point(6.4e6, 1e8, 4e15, 1.4)]
  scaling.plot(seen, TRUE, unseen, str(tmp_path / 'law.png'))
  assert (tmp_path / 'law.png').stat().st_size > 5000
  drawn = []
  monkeypatch.setattr(
    matplotlib.figure.Figure, 'savefig', lambda figure, *_, **__: drawn.append(figure)
  )
  scaling.plot(seen, TRUE, unseen, 'law.png')
  (axes,) = drawn[0].axes
  dots = [line for line in axes.lines if line.get_marker() == 'o']
  (star,) = (x for x in axes.lines if x.get_marker() == '*' and len(x.get_xdata()))
  laws = [line for line in axes.lines if line.get_linestyle() == '-']
  for line, N in zip(dots, (2e4, 1e5, 4e5, 1.6e6), strict=False):
    own = [p for p in seen if p.N == N]
    assert list(line.get_xdata()) == [p.C for p in own]
    assert list(line.get_ydata()) == [p.L for p in own]
  assert (star.get_xdata(), star.get_ydata()) == ([4e15], [1.4])
  assert laws[-1].get_label() == '6,400,000 parameters (not in the fit)'
  for line, N in zip(laws, (2e4, 1e5, 4e5, 1.6e6), strict=False):
    tokens = np.array(line.get_xdata()) / (6 * N)
    np.testing.assert_allclose(line.get_ydata(), TRUE.loss(N, tokens))
