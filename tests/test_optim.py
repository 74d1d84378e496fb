"""Schedules at their corners, and what decays and what Muon takes, by name."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from gpt_jax import config
from gpt_jax.model import lora
from gpt_jax.model.gpt import init_params
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.training import muon, optim


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
  np.testing.assert_allclose(found[:10], np.arange(1, 11) / 10, rtol=1e-5)
  assert found.max() <= 1 + 1e-6


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


@functools.cache
def params():
  cfg = GPTConfig.of(config.Model(L=1, D=8, N=2, T=4), vocab=5)
  return jax.jit(lambda: init_params(cfg, 0))()


KERNELS = {f'h_0/attn/{n}/kernel' for n in 'qkvo'} | {
  'h_0/mlp/up/kernel',
  'h_0/mlp/down/kernel',
}


def test_exactly_matrices_and_embeddings_decay():
  assert names(optim.decays(params()), True) == KERNELS | {'wte', 'wpe'}


def test_an_output_matrix_decays_and_low_rank_changes_do_not():
  cfg = GPTConfig.of(config.Model(L=1, D=8, N=2, T=4, tied=False), vocab=5)
  untied = jax.eval_shape(lambda: init_params(cfg, 0))
  assert names(optim.decays(untied), True) == KERNELS | {'wte', 'wpe', 'lm_head'}
  changes = lora.init(params(), 2, jax.random.key(0))
  clf = {'kernel': np.ones((8, 2)), 'bias': np.zeros(2)}
  tree = {'special': {'wte': np.ones((3, 8))}, 'clf': clf, 'lora': changes}
  assert names(optim.decays(tree), True) == {'special/wte', 'clf/kernel'}
  assert names(optim.muon_or_adam(tree), 'muon') == {'clf/kernel'}


def test_the_warm_up_of_a_fine_tuning_is_a_share_of_its_updates():
  run = config.Run(steps=400, task=config.Task(name='sst2', warmup=0.05))
  run.optim.warmup = 0
  hp = optim.Hyper.of(run)
  assert float(hp.warmup) == 20
  assert float(optim.learning_rate(jnp.int32(9), hp, 'constant')) == pytest.approx(
    run.optim.lr / 2
  )
  run.task.name = ''
  run.optim.warmup = 7
  assert float(optim.Hyper.of(run).warmup) == 7


def test_muon_takes_exactly_the_kernels():
  assert names(optim.muon_or_adam(params()), 'muon') == KERNELS


# What an optimizer is, for one tensor in float64: returns x - rate * (...) for gradient
# g and update number t, from 1; memory is its own, decay 0 or the run's weight decay.
B1, B2, EPS, RATE, DECAY = 0.9, 0.95, 1e-2, 0.1, 0.3


def moments(memory, g):
  memory['m'] = B1 * memory.get('m', 0) + (1 - B1) * g
  memory['v'] = B2 * memory.get('v', 0) + (1 - B2) * g**2
  return memory['m'], memory['v']


def adamw(x, g, memory, t, decay):
  m, v = moments(memory, g)
  m, v = m / (1 - B1**t), v / (1 - B2**t)
  return x - RATE * (m / (np.sqrt(v) + EPS) + decay * x)


def adam_gpt1(x, g, memory, t, decay):
  m, v = moments(memory, g)
  rate = RATE * np.sqrt(1 - B2**t) / (1 - B1**t)
  return x - rate * (m / (np.sqrt(v) + EPS) + decay * x)


def adam_dialogpt(x, g, memory, t, decay):
  m, v = moments(memory, g)
  return x - RATE * (m / (np.sqrt(v) + EPS) + decay * x)


def lion(x, g, memory, t, decay):
  m = memory.get('m', 0)
  memory['m'] = B2 * m + (1 - B2) * g
  return x - RATE * (np.sign(B1 * m + (1 - B1) * g) + decay * x)


def adafactor(x, g, memory, t, decay):
  keep = 1 - t**-0.8
  square = g**2 + 1e-30
  if x.ndim == 2:
    memory['r'] = keep * memory.get('r', 0) + (1 - keep) * square.sum(1)
    memory['c'] = keep * memory.get('c', 0) + (1 - keep) * square.sum(0)
    v = np.outer(memory['r'], memory['c']) / memory['r'].sum()
  else:
    v = memory['v'] = keep * memory.get('v', 0) + (1 - keep) * square
  u = g / np.sqrt(v)
  u /= max(1, np.sqrt(np.mean(u**2)))
  return x - RATE * (u + decay * x)


def followed(optimizer):
  """Returns (parameters, those of the definition) after a few updates."""
  run = config.Run(steps=5)
  run.optim = config.Optim(
    name=optimizer.__name__,
    lr=RATE,
    schedule='constant',
    warmup=0,
    clip=0,
    eps=EPS,
    weight_decay=DECAY,
  )
  hp = optim.Hyper.of(run)
  p = {
    'kernel': jnp.array([[1.0, -2.0, 0.3], [0.5, 1.5, -0.7]]),
    'bias': jnp.array([0.5, -0.1]),
  }
  state = optim.transformation(run.optim, hp, jnp.int32(0)).init(p)
  wanted = {k: np.asarray(v, np.float64) for k, v in p.items()}
  memory = {k: {} for k in p}
  # Gradients that grow are clipped by Adafactor, those that shrink are not.
  for step, size in enumerate([1, 4, 0.1, 0.01, 2]):
    grads = {k: size * jnp.sin(x + step) for k, x in p.items()}
    tx = optim.transformation(run.optim, hp, jnp.int32(step))
    updates, state = tx.update(grads, state, p)
    p = optax.apply_updates(p, updates)
    for k, x in wanted.items():
      decay = DECAY if k == 'kernel' else 0
      wanted[k] = optimizer(x, size * np.sin(x + step), memory[k], step + 1, decay)
  return p, wanted


@pytest.mark.parametrize(
  'optimizer',
  [adamw, adam_gpt1, adam_dialogpt, lion, adafactor],
  ids=lambda f: f.__name__,
)
def test_an_optimizer_equals_its_definition_in_numpy(optimizer):
  found, wanted = followed(optimizer)
  for k in found:
    np.testing.assert_allclose(found[k], wanted[k], rtol=1e-5, atol=1e-6)


def test_noam_is_the_releases_rate():
  run = config.Run(steps=100, model=config.Model(D=768))
  run.optim = config.Optim(lr=1e-5, schedule='noam', warmup=40)
  hp = optim.Hyper.of(run)
  found = [float(optim.learning_rate(jnp.int32(s), hp, 'noam')) for s in range(100)]
  wanted = [1e-5 * 1e4 * 768**-0.5 * min(s**-0.5, s * 40**-1.5) for s in range(1, 101)]
  np.testing.assert_allclose(found, wanted, rtol=1e-5)
  run.optim.warmup = 16_000  # the release's own, at its peak
  np.testing.assert_allclose(optim.noam_peak(run.optim, 768), 2.85e-5, rtol=2e-3)


def test_dialogpts_adam_clips_each_tensor_by_its_own_norm():
  chosen = config.Optim(name='adam_dialogpt', clip=1.0)
  hp, step = optim.Hyper.of(config.Run(optim=chosen)), jnp.int32(0)
  grads = {
    'attn': {n: {'kernel': jnp.full((2, 2), 1.5)} for n in 'qkvo'},
    'wte': jnp.full((2, 2), 0.1),
  }
  # Norms: 3 alone, 3 * 3^0.5 of query, key and value together, 0.2.
  clipped = {
    'attn': {
      n: {'kernel': jnp.full((2, 2), 1.5 / (3.0 if n == 'o' else 27**0.5))}
      for n in 'qkvo'
    },
    'wte': grads['wte'],
  }
  tx = optim.transformation(chosen, hp, step)
  state = tx.update(grads, tx.init(grads), grads)[1]
  plain = optim.transformation(config.Optim(name='adam_dialogpt', clip=0.0), hp, step)
  wanted = plain.update(clipped, plain.init(grads), grads)[1]
  for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize('name', ['adam_gpt1', 'adam_dialogpt', 'adafactor', 'lion'])
def test_the_numbers_of_an_optimizer_are_traced(name):
  chosen = config.Optim(name=name)
  step = jnp.int32(3)

  @jax.jit
  def update(hp):
    tx = optim.transformation(chosen, hp, step)
    return tx.update(params(), tx.init(params()), params())[0]

  hp = optim.Hyper.of(config.Run(optim=chosen))
  before = update(hp)
  other = update(hp.replace(weight_decay=hp.weight_decay * 2))
  assert not np.array_equal(before['wte'], other['wte'])
  assert update._cache_size() == 1


def muon_update(grads, **fields):
  """Returns the update of the last of `grads`, by which each parameter changes."""
  run = config.Run(steps=100)
  still = {'name': 'muon', 'schedule': 'constant', 'warmup': 0, 'clip': 0}
  run.optim = config.Optim(**still | fields)
  hp, p = optim.Hyper.of(run), params()
  state = optim.transformation(run.optim, hp, jnp.int32(0)).init(p)
  for step, g in enumerate(grads):
    tx = optim.transformation(run.optim, hp, jnp.int32(step))
    updates, state = tx.update(g, state, p)
  return updates


def gradients(seed):
  leaves, tree = jax.tree.flatten(params())
  draw = np.random.default_rng(seed).normal
  return jax.tree.unflatten(tree, [jnp.float32(draw(size=x.shape)) for x in leaves])


def test_without_momentum_an_update_of_muon_knows_no_gradient_before():
  new, both = [gradients(1)], [gradients(0), gradients(1)]

  def kernel(grads, momentum):
    return muon_update(grads, muon_momentum=momentum)['h_0']['mlp']['up']['kernel']

  np.testing.assert_allclose(kernel(both, 0.0), kernel(new, 0.0), rtol=1e-5)
  assert np.abs(kernel(both, 0.95) - kernel(new, 0.95)).max() > 1e-4


@pytest.mark.parametrize('shape', [(16, 256), (256, 16), (8, 8)], ids=str)
def test_muon_s_updates_are_orthogonal_and_as_large_as_adam_s(shape):
  run = config.Run(steps=9)
  run.optim = config.Optim(
    'muon', lr=0.1, schedule='constant', warmup=0, clip=0, muon_momentum=0.0
  )
  run.optim.weight_decay = 0.0
  hp = optim.Hyper.of(run)
  gradient = np.random.default_rng(0).normal(size=shape).astype('f')
  tx = optim.transformation(run.optim, hp, jnp.int32(0))
  p = {'kernel': jnp.ones(shape)}
  update = np.asarray(tx.update({'kernel': gradient}, tx.init(p), p)[0]['kernel'])
  assert update.shape == shape and np.vdot(update, gradient) < 0
  singular = np.linalg.svd(update, compute_uv=False)
  singular /= 0.1 * 0.2 * np.sqrt(max(shape))
  # As near to 1 as five turns of Newton and Schulz bring a singular value.
  assert singular.min() > 0.6 and singular.max() < 1.3


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_stacked_matrices_become_what_each_becomes_by_itself(dtype):
  keys = jax.random.split(jax.random.key(0), 3)
  shapes = (16, 16), (16, 48), (48, 16)
  grads = {
    str(i): jax.random.normal(key, shape)
    for i, (key, shape) in enumerate(zip(keys, shapes, strict=True))
  }
  grads['3'] = 2 * grads['0']
  norms = jax.tree.map(lambda x: x / jnp.linalg.norm(x), grads)
  found = jax.jit(lambda tree: muon.Stacked(dtype)(tree))(norms)
  one = optax.contrib.scale_by_muon(
    beta=0.0, nesterov=False, weight_dimension_numbers=optim._matrices
  )
  wanted, _ = one.update(grads, one.init(grads))
  tolerance = 1e-5 if dtype == 'float32' else 0.06
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance), found, wanted
  )
  for matrix in jax.tree.leaves(found):
    values = jnp.linalg.svd(matrix, compute_uv=False)
    assert matrix.dtype == 'float32' and 0.5 < values.min() < values.max() < 1.3


def test_what_muon_leaves_is_adamw_s():
  grads = [gradients(0), gradients(1)]
  fields = {'weight_decay': 0.3, 'beta1': 0.8, 'beta2': 0.9, 'eps': 1e-3}
  found, wanted = (
    muon_update(grads, name=name, **fields) for name in ('muon', 'adamw')
  )
  for name in ('wte', 'wpe'):
    np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5)
  for name in ('q', 'o'):
    found_bias = found['h_0']['attn'][name]['bias']
    np.testing.assert_allclose(
      found_bias, wanted['h_0']['attn'][name]['bias'], rtol=1e-5
    )
  kernels = (each['h_0']['attn']['q']['kernel'] for each in (found, wanted))
  assert not np.allclose(*kernels)
