"""The update: layouts and micro-batches agree, dropout on, ragged weights."""

import jax
import numpy as np
import pytest

from gpt_jax import config
from gpt_jax.data.batches import Batch
from gpt_jax.model.gpt import Shape
from gpt_jax.training import optim, parallel, step

# Sums of float32 gradients in another order.
SAME = {'rtol': 1e-5, 'atol': 1e-5}


def make_run(**fields):
  run = config.Run(batch=8, **fields)
  run.model = config.Model(L=2, D=16, N=2, T=8, dropout=0.2)
  run.optim = config.Optim(name='sgd', lr=0.5, schedule='constant', warmup=0, clip=0)
  return run


def ragged_batch(seed=0):
  rng = np.random.default_rng(seed)
  ids = rng.integers(0, 11, (8, 9)).astype(np.int32)
  # Rows and so devices hold very different numbers of targets, one row none.
  w = (np.arange(8)[None] < np.array([8, 0, 1, 2, 8, 8, 3, 5])[:, None]).astype('f')
  return Batch(ids[:, :-1], ids[:, 1:], w, np.arange(8, dtype=np.int32))


def trained(run, devices, updates=3):
  shape = Shape.of(run.model, 11)
  update = parallel.compile_train_step(run, shape, jax.devices()[:devices])
  state, losses = step.init_state(run, shape), []
  for i in range(updates):
    state, metrics = update(state, ragged_batch(i), optim.Hyper.of(run))
    losses.append(float(metrics['loss']))
  assert int(state.step) == updates
  return jax.tree.map(np.asarray, state.params), losses


@pytest.fixture(scope='module')
def one_device():
  return trained(make_run(), 1)


@pytest.mark.parametrize(('devices', 'accumulate'), [(4, 1), (2, 1), (1, 4), (2, 2)])
def test_devices_and_micro_batches_equal_one_device(one_device, devices, accumulate):
  params, losses = trained(make_run(accumulate=accumulate), devices)
  np.testing.assert_allclose(losses, one_device[1], **SAME)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, **SAME), params, one_device[0]
  )


def test_dropout_is_on_and_drawn_anew_each_update_and_seed(one_device):
  quiet = make_run()
  quiet.model.dropout = 0.0
  other = make_run(seed=1)
  shape = Shape.of(quiet.model, 11)
  update = parallel.compile_train_step(other, shape, jax.devices()[:1])
  first = {}
  for name, run, updates in [('a', make_run(), 0), ('b', other, 0), ('c', other, 1)]:
    state = step.init_state(make_run(), shape).replace(step=np.int32(updates))
    first[name] = float(update(state, ragged_batch(), optim.Hyper.of(run))[1]['loss'])
  first['quiet'] = trained(quiet, 1, 1)[1][0]
  assert len(set(first.values())) == 4, first
  assert first['a'] == pytest.approx(one_device[1][0], rel=1e-6)


def test_the_loss_is_the_mean_over_targets_that_count():
  run = make_run()
  run.model.dropout = 0.0
  shape = Shape.of(run.model, 11)
  state, batch = step.init_state(run, shape), ragged_batch()
  from gpt_jax.model.gpt import GPT

  logits = np.asarray(GPT(shape).apply({'params': state.params}, batch.ids_BT)[0], 'd')
  logits = logits[..., :11]
  logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  nll = -np.take_along_axis(logp, batch.y_BT[..., None], -1)[..., 0]
  wanted = (nll * batch.w_BT).sum() / batch.w_BT.sum()
  assert trained(run, 1, 1)[1][0] == pytest.approx(wanted, rel=1e-5)


def test_evaluation_sums_agree_over_devices():
  run = make_run()
  shape = Shape.of(run.model, 11)
  params = step.init_state(run, shape).params
  sums = [
    np.asarray(
      parallel.compile_eval_step(shape, jax.devices()[:n])(params, ragged_batch())
    )
    for n in (1, 4)
  ]
  np.testing.assert_allclose(sums[0], sums[1], rtol=1e-5)
  assert sums[0][1] == ragged_batch().w_BT.sum()


@pytest.mark.parametrize('name', ['adamw', 'muon', 'sgd'])
def test_training_on_one_batch_learns_it(name):
  run = make_run()
  run.model.dropout = 0.0
  run.optim = config.Optim(
    name=name, lr=0.5 if name == 'sgd' else 1e-2, schedule='constant', warmup=0
  )
  shape = Shape.of(run.model, 11)
  update = parallel.compile_train_step(run, shape, jax.devices()[:1])
  state = step.init_state(run, shape)
  for _ in range(60):
    state, metrics = update(state, ragged_batch(), optim.Hyper.of(run))
  assert float(metrics['loss']) < 1.0
