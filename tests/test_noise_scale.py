"""experiments/gpt3/noise_scale.py: estimates against sums over all rows there are."""

import math

import jax
import numpy as np
import pytest
from scripts import opened

from gpt_jax import config
from gpt_jax.config.length import stages
from gpt_jax.data import windows
from gpt_jax.model.gpt import GPT, init_params
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.training.objective import LanguageModeling

noise_scale = opened('gpt3/noise_scale.py')


def test_estimates_are_unbiased_and_their_ratio_has_an_interval():
  rng = np.random.default_rng(0)
  mean, std = np.array([0.5, -1.0, 0.25]), np.array([1.0, 2.0, 0.5])
  b, n, groups = 3, 8, 4000
  rows = mean + std * rng.standard_normal((groups, n, b, 3))
  g = rows.mean(2)
  found = [
    noise_scale.estimated((one**2).sum(-1), (one.mean(0) ** 2).sum(), b) for one in g
  ]
  signal, noise = np.mean(found, 0)
  assert signal == pytest.approx((mean**2).sum(), rel=0.03)
  assert noise == pytest.approx((std**2).sum(), rel=0.03)
  scale, low, high = noise_scale.scale(found)
  assert low < (std**2).sum() / (mean**2).sum() < high and low < scale < high
  # Of the intervals of 100 small experiments about 95 hold the truth.
  truth = (std**2).sum() / (mean**2).sum()
  held = [
    low < truth < high
    for at in range(0, groups, 40)
    for _, low, high in [noise_scale.scale(found[at : at + 40])]
  ]
  assert 88 <= sum(held) <= 100


def test_a_gradient_that_is_all_noise_has_no_scale():
  assert noise_scale.scale([noise_scale.Noise(-1.0, 2.0)] * 3) == (
    math.inf,
    0.0,
    math.inf,
  )


def test_gradients_are_those_of_single_rows():
  model = config.Model(L=1, D=16, N=2, T=8, vocab=11)
  cfg = GPTConfig.of(model, 11)
  params = init_params(cfg, 0)
  ids = np.random.default_rng(0).integers(0, 11, 200).astype(np.int32)
  draw = windows.training_batches(ids, T=8, sizes=stages(2), seed=1, order='random')
  drawn = [draw(i) for i in range(5)]
  found = noise_scale.of_rows(params, GPT(cfg), drawn)

  def gradient(batch):
    nll_sum = LanguageModeling(GPT(cfg)).nll_sum
    loss = lambda p: nll_sum(p, batch) / batch.w_BT.sum()  # noqa: E731
    flat = [np.ravel(leaf) for leaf in jax.tree.leaves(jax.grad(loss)(params))]
    return np.concatenate(flat).astype(np.float64)

  g = np.stack([gradient(batch) for batch in drawn])
  variance = g.var(0, ddof=1).sum()  # of means over 2 rows
  assert found.noise == pytest.approx(2 * variance, rel=1e-4)
  want = (g.mean(0) ** 2).sum() - variance / 5
  assert found.signal == pytest.approx(want, rel=1e-3)
