"""Schedules at their corners, and what decays and what Muon takes, by name."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gpt_jax import config
from gpt_jax.model.gpt import Shape, init_params
from gpt_jax.training import optim


def rates(schedule, **fields):
  run = config.Run(steps=100)
  run.optim = config.Optim(lr=1.0, final_lr=0.1, schedule=schedule, **fields)
  hp = optim.Hyper.of(run)
  return np.array(
    [optim.learning_rate(jnp.int32(s), hp, schedule) for s in range(100)], np.float64
  )


@pytest.mark.parametrize('schedule', ['cosine', 'linear', 'rsqrt', 'constant', 'wsd'])
def test_warm_up_is_linear_and_reaches_the_highest_rate(schedule):
  found = rates(schedule, warmup=10, cooldown=20)
  np.testing.assert_allclose(found[9], 1, rtol=1e-6)
  assert found.argmax() <= 10 and found[0] > 0
  if schedule != 'cosine' and schedule != 'linear':
    np.testing.assert_allclose(found[:10], np.arange(1, 11) / 10, rtol=1e-5)


def test_schedules_end_where_they_should():
  np.testing.assert_allclose(rates('cosine', warmup=10)[-1], 0.1, rtol=1e-5)
  np.testing.assert_allclose(rates('cosine', warmup=10)[54], 0.55, rtol=1e-5)
  np.testing.assert_allclose(rates('linear', warmup=10)[-1], 0.1, rtol=1e-5)
  np.testing.assert_allclose(rates('linear', warmup=10)[54], 0.55, rtol=1e-5)
  np.testing.assert_allclose(rates('constant', warmup=10)[10:], 1)
  np.testing.assert_allclose(rates('rsqrt', warmup=25)[99], 0.5, rtol=1e-5)
  wsd = rates('wsd', warmup=10, cooldown=20)
  np.testing.assert_allclose(wsd[10:80], 1)
  np.testing.assert_allclose(wsd[[89, 99]], [0.55, 0.1], rtol=1e-5)


def names(tree, wanted):
  return {
    '/'.join(k.key for k in path)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    if leaf == wanted
  }


def params():
  shape = Shape.of(config.Model(L=1, D=8, N=2, T=4), vocab=5)
  return init_params(shape, 0)


KERNELS = {f'h_0/attn/{n}/kernel' for n in 'qkvo'} | {
  'h_0/mlp/up/kernel',
  'h_0/mlp/down/kernel',
}


def test_exactly_matrices_and_embeddings_decay():
  assert names(optim.decays(params()), True) == KERNELS | {'wte', 'wpe'}


def test_muon_takes_exactly_the_kernels():
  assert names(optim.muon_or_adam(params()), 'muon') == KERNELS


def test_adamw_equals_its_definition_in_numpy():
  run = config.Run(steps=3)
  run.optim = config.Optim(lr=0.1, schedule='constant', warmup=0, clip=0)
  hp = optim.Hyper.of(run)
  p = {'kernel': jnp.array([1.0, -2.0]), 'bias': jnp.array([0.5])}
  state = optim.transformation(run.optim, hp, jnp.int32(0)).init(p)
  wanted = {k: np.asarray(v, np.float64) for k, v in p.items()}
  m = dict.fromkeys(p, 0.0)
  v = dict.fromkeys(p, 0.0)
  for step in range(3):
    grads = {k: jnp.sin(x + step) for k, x in p.items()}
    tx = optim.transformation(run.optim, hp, jnp.int32(step))
    updates, state = tx.update(grads, state, p)
    for k, x in wanted.items():
      g = np.sin(x + step)
      m[k] = 0.9 * m[k] + 0.1 * g
      v[k] = 0.95 * v[k] + 0.05 * g**2
      m_hat, v_hat = m[k] / (1 - 0.9 ** (step + 1)), v[k] / (1 - 0.95 ** (step + 1))
      decay = 0.1 * x if k == 'kernel' else 0
      wanted[k] = x - 0.1 * (m_hat / (np.sqrt(v_hat) + 1e-8) + decay)
    p = optax.apply_updates(p, updates)
  for k in p:
    np.testing.assert_allclose(p[k], wanted[k], rtol=1e-5)
