"""The update: devices and micro-batches agree, dropout on, ragged weights."""

import jax
import numpy as np
import pytest
from updates import (
  make_run,
  objective_of,
  ragged_batch,
  trained,
  updater,
)

from gpt_jax import config
from gpt_jax.data.windows import Batch
from gpt_jax.model.gpt import GPT, unembed
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.training import sharding, step

# Sums of float32 gradients in another order.
SAME = {'rtol': 1e-5, 'atol': 1e-5}


def initial(run, cfg):
  """Returns the state at the start: one program instead of one for each operation."""
  return jax.jit(lambda: step.new_state(run, cfg))()


@pytest.fixture(scope='module')
def one_device():
  return trained(make_run(devices=1))


@pytest.mark.parametrize(('devices', 'accumulate'), [(4, 1), (2, 1), (1, 4), (2, 2)])
def test_devices_and_micro_batches_equal_one_device(one_device, devices, accumulate):
  params, losses = trained(make_run(accumulate=accumulate, devices=devices))
  np.testing.assert_allclose(losses, one_device[1], **SAME)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, **SAME), params, one_device[0]
  )


def test_dropout_is_on_and_drawn_anew_each_update_and_seed(one_device):
  run = make_run(devices=1)
  cfg = GPTConfig.of(run.model, 11)
  first = {}
  for name, seed, updates in [('a', 0, 0), ('b', 1, 0), ('c', 1, 1)]:
    _, _, update = updater(make_run(devices=1, seed=seed))
    state = initial(run, cfg).replace(step=np.int32(updates))
    first[name] = float(update(state, ragged_batch())[1]['loss'])
  first['quiet'] = trained(make_run(devices=1, model_dropout=0.0), 1)[1][0]
  assert len(set(first.values())) == 4, first
  assert first['a'] == pytest.approx(one_device[1][0], rel=1e-6)


def test_each_row_draws_dropout_by_its_own_number():
  run = make_run(devices=1)
  _, cfg, update = updater(run)
  state = jax.device_get(initial(run, cfg))
  ids = np.repeat(ragged_batch().ids_BT[:1], 8, axis=0)

  def loss_of(place, number):
    """Returns the loss of one of eight rows that are alike but for their numbers."""
    w_BT = np.zeros((8, 8), 'f')
    w_BT[place] = 1
    row_B = np.roll(np.arange(8, dtype=np.int32), place - number)
    _, metrics = update(state, Batch(ids, ids, w_BT, row_B))
    return float(metrics['loss'])

  losses = [loss_of(place, place) for place in range(4)]
  assert len({round(loss, 4) for loss in losses}) == 4, losses
  assert loss_of(7, 2) == pytest.approx(losses[2], rel=1e-6)


def test_the_loss_is_the_mean_over_targets_that_count():
  run = make_run(devices=1, model_dropout=0.0)
  cfg = GPTConfig.of(run.model, 11)
  state, batch = initial(run, cfg), ragged_batch()
  gpt = GPT(cfg)
  logits = jax.jit(
    lambda p: unembed(gpt, p, gpt.apply({'params': p}, batch.ids_BT)[0])
  )(state.params)
  logits = np.asarray(logits, 'd')
  logits = logits[..., :11]
  logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  nll = -np.take_along_axis(logp, batch.y_BT[..., None], -1)[..., 0]
  wanted = (nll * batch.w_BT).sum() / batch.w_BT.sum()
  assert trained(run, 1)[1][0] == pytest.approx(wanted, rel=1e-5)


def test_evaluation_sums_agree_over_devices():
  cfg = GPTConfig.of(make_run().model, 11)
  params = initial(make_run(), cfg).params
  sums = []
  for n in (1, 4):
    layout = sharding.Layout.of(config.Run(devices=n))
    like = layout.state_shapes(lambda: step.new_state(make_run(), cfg)).params
    evaluate = layout.eval_step(objective_of(make_run(), cfg, layout), like)
    sums.append(np.asarray(evaluate(params, layout.put(ragged_batch()))))
  np.testing.assert_allclose(sums[0], sums[1], rtol=1e-5)
  assert sums[0][1] == ragged_batch().w_BT.sum()


@pytest.mark.parametrize(
  ('name', 'lr'),
  [
    ('adamw', 1e-2),
    ('adam_gpt1', 1e-2),
    ('adam_dialogpt', 1e-2),
    ('muon', 1e-2),
    ('adafactor', 1e-2),
    ('lion', 2e-3),
    ('sgd', 0.5),
  ],
)
def test_training_on_one_batch_learns_it(name, lr):
  run = make_run(devices=1, model_dropout=0.0)
  run.optim = config.Optim(name=name, lr=lr, schedule='constant', warmup=0)
  losses = trained(run, 60, lambda _: ragged_batch())[1]
  assert losses[-1] < 1.0


def test_the_norm_is_that_of_the_gradient_before_clipping_and_the_rate_its_own():
  run = make_run(devices=1, model_dropout=0.0)
  run.optim.schedule, run.optim.warmup, run.steps = 'linear', 2, 12
  run.optim.final_lr = 0.1
  cfg = GPTConfig.of(run.model, 11)
  found = []
  for clip in (0.0, 1e-2):
    run.optim.clip = clip
    _, _, update = updater(run)
    state = initial(run, cfg).replace(step=np.int32(6))
    before = jax.device_get(state.params)
    after, metrics = update(state, ragged_batch())
    moved = jax.tree.map(lambda a, b: np.asarray(a) - b, after.params, before)
    length = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(moved)))
    found.append((float(metrics['grad_norm']), length))
    # Update 7 of 12, of which 2 warm up: half of the way from 0.5 to 0.1.
    assert float(metrics['lr']) == pytest.approx(0.3, rel=1e-6)
  (norm, moved), (same, clipped) = found
  assert norm == same == pytest.approx(moved / 0.3, rel=1e-4)
  assert clipped == pytest.approx(1e-2 * 0.3, rel=1e-3)
