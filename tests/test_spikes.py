"""The guard against spikes, the average of the weights, and updates that grow."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from updates import VOCAB, make_run, program_of, ragged_batch, updater

from gpt_jax.config.length import rows_read, stages
from gpt_jax.data import windows
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.training import checkpoint, loop, metrics_log, spikes, step


def judged(losses, sigmas=4.0):
  state, found = spikes.SpikeDetector.new(), []
  one = jax.jit(spikes.judge)
  for loss in losses:
    norm = jnp.float32(1.0)
    state, spike = one(state, jnp.float32(loss), norm, jnp.float32(sigmas))
    found.append(bool(spike))
  return state, found


def test_a_spike_stands_out_of_the_losses_before_it_and_is_not_learnt_from():
  rng = np.random.default_rng(0)
  losses = 3 + 0.1 * rng.standard_normal(200)
  losses[[120, 121]] = 4.0, math.nan
  state, found = judged(losses)
  assert np.flatnonzero(found).tolist() == [120, 121]
  assert int(state.seen) == 198
  calm = np.delete(losses, [120, 121])
  assert float(state.mean) == pytest.approx(calm[-100:].mean(), abs=0.05)
  assert math.sqrt(float(state.variance)) == pytest.approx(0.1, rel=0.3)


def test_the_first_updates_are_only_watched_but_must_be_finite():
  _, found = judged([10.0, 1.0, 50.0, math.inf, 2.0])
  assert found == [False, False, False, True, False]


def test_a_skipped_update_leaves_all_but_the_count_as_it_was():
  run = make_run(devices=1, model_dropout=0.0)
  run.optim.guard, run.optim.ema, run.optim.name = 'skip', 0.9, 'adamw'
  layout, cfg, update = updater(run)
  state = layout.new_state(lambda: step.new_state(run, cfg))
  state, metrics = update(state, ragged_batch())
  assert float(metrics['spike']) == 0
  before = jax.tree.map(np.array, state)
  bad = ragged_batch().replace(w_BT=np.full((8, 8), np.nan, 'f'))
  after, metrics = update(state, bad)
  assert float(metrics['spike']) == 1 and math.isnan(float(metrics['loss']))
  assert int(after.step) == 2
  jax.tree.map(np.testing.assert_array_equal, before, after.replace(step=before.step))


def test_the_average_is_that_of_the_weights_so_far():
  run = make_run(devices=1, model_dropout=0.0)
  run.optim.ema = 0.5
  layout, cfg, update = updater(run)
  state = layout.new_state(lambda: step.new_state(run, cfg))
  wanted = np.array(state.params['wpe'], np.float64)
  for i in range(4):
    state, _ = update(state, ragged_batch(i))
    decay = min(0.5, (1 + i) / (10 + i))
    wanted = decay * wanted + (1 - decay) * np.array(state.params['wpe'])
  np.testing.assert_allclose(state.weights['wpe'], wanted, rtol=1e-5, atol=1e-7)
  assert state.weights is state.ema
  assert step.new_state(make_run(), cfg).ema is None


def test_updates_grow_linearly_in_tokens_by_equal_steps():
  sizes = stages(batch=12, start=3, ramp=2700, T=10)
  assert [stage.rows for stage in sizes] == [3, 6, 9, 12]
  rows = [
    next(s for s in reversed(sizes) if s.update <= update).rows for update in range(80)
  ]
  read = 10 * np.cumsum([0, *rows])
  assert [rows_read(sizes, n) for n in range(81)] == (read // 10).tolist()
  # It has grown to n-th size when n / 3 of the ramp is read, up to half an update.
  for n, stage in enumerate(sizes):
    assert abs(read[stage.update] - n * 900) <= 10 * 12 / 2 + 10 * 12
  assert stages(12) == [(0, 0, 12)]


def test_growing_updates_read_an_epoch_without_gap_or_repetition():
  ids = np.arange(1000, dtype=np.uint16)
  make = lambda sizes: windows.training_batches(  # noqa: E731
    ids, T=8, sizes=sizes, seed=0, order='epochs'
  )
  sizes = stages(batch=4, start=1, ramp=8 * 40, T=8)
  grown = np.concatenate([make(sizes)(i).ids_BT for i in range(40)])
  plain = np.concatenate([make(stages(1))(i).ids_BT for i in range(len(grown))])
  np.testing.assert_array_equal(grown, plain)


def test_a_host_reads_its_rows_alone():
  ids = np.arange(1000, dtype=np.uint16)
  for order in ('epochs', 'random'):
    settings = {'T': 8, 'sizes': stages(6), 'seed': 0, 'order': order}
    whole = windows.training_batches(ids, **settings)(5)
    own = lambda rows: np.arange(rows // 2, rows)  # noqa: E731
    half = windows.training_batches(ids, part=own, **settings)(5)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[3:], b), whole, half)


def training(run, program, saved, folder, batch, evaluate):
  """Returns what the loop trains: one run, from new weights."""
  cfg = GPTConfig.of(run.model, VOCAB)
  return loop.Training(
    run=run,
    state=program.layout.new_state(lambda: step.new_state(run, cfg)),
    program=program,
    folders=[folder],
    checkpoints=[saved],
    rows=lambda step: [batch(step)],
    evaluate=evaluate,
    sample=lambda state: [''],
    restore=lambda step: saved.restore(step, program.like),
    flops_per_token=1.0,
  )


def test_a_roll_back_goes_on_with_the_data_after_the_spike(tmp_path):
  run = make_run(devices=1, model_dropout=0.0, model_L=1)
  run.steps, run.eval_every, run.log_every, run.sample_tokens = 40, 10, 1, 0
  run.optim.guard, run.optim.guard_sigmas = 'rollback', 1e9  # only what is not finite
  layout, cfg, update = updater(run)

  def batch(number):
    rows = ragged_batch(number)
    return rows.replace(w_BT=rows.w_BT * np.nan) if 25 <= number < 28 else rows

  saved = checkpoint.Checkpoints(tmp_path / 'checkpoints')
  program = program_of(run)

  def evaluate(state, step):
    del step
    return [{'valid_nll': float(jnp.abs(state.weights['wpe']).sum())}]

  loop.train(training(run, program, saved, tmp_path, batch, evaluate))
  state = saved.restore(40, program.like)
  saved.close()
  # Update 26 read batch 25; each roll-back to update 20 passes over all up to there.
  assert int(state.guard.passed_over) == 8
  wanted, losses = layout.new_state(lambda: step.new_state(run, cfg)), []
  for number in [*range(20), *range(28, 48)]:
    wanted, metrics = update(wanted, ragged_batch(number))
    losses.append(float(metrics['loss']))
  jax.tree.map(np.testing.assert_array_equal, state.params, wanted.params)
  lines = [line for line in metrics_log.read_metrics(tmp_path) if 'loss' in line]
  assert [line['loss'] for line in lines] == losses
  assert [line['step'] for line in lines] == list(range(1, 41))


def test_spikes_without_end_stop_the_run(tmp_path):
  run = make_run(devices=1, model_L=1)
  run.steps, run.eval_every, run.optim.guard = 60, 60, 'skip'
  saved = checkpoint.Checkpoints(tmp_path / 'checkpoints')
  rows = ragged_batch()
  nan = lambda number: rows.replace(w_BT=rows.w_BT * np.nan)  # noqa: E731
  with pytest.raises(loop.Diverged, match='the loss of update 21 is nan'):
    loop.train(
      training(run, program_of(run), saved, tmp_path, nan, lambda state, step: [{}]),
      shows=False,
    )
  saved.close()


@pytest.mark.parametrize('guard', ['off', 'rollback'])
def test_a_held_out_loss_that_is_not_finite_is_an_error_and_never_kept(tmp_path, guard):
  run = make_run(devices=1, model_L=1)
  run.steps, run.eval_every, run.sample_tokens = 40, 10, 0
  run.optim.guard, run.optim.guard_sigmas = guard, 1e9
  kept = checkpoint.Checkpoints(tmp_path / 'checkpoints', keep=1)

  def evaluate(state, step):
    return [{'valid_nll': float('nan') if step == 20 else 3.0}]

  with pytest.raises(loop.Diverged, match='held-out loss after update 20 is nan') as e:
    loop.train(training(run, program_of(run), kept, tmp_path, ragged_batch, evaluate))
  kept.close()
  assert f'The last checkpoint is {tmp_path / "checkpoints" / "10"}' in str(e.value)
  assert kept.steps() == [10] and kept.best() == 10
  held = [line for line in metrics_log.read_metrics(tmp_path) if 'valid_nll' in line]
  assert [line['valid_nll'] for line in held] == [3.0]
  assert 'NaN' not in (tmp_path / 'metrics.jsonl').read_text()


def test_the_state_before_a_poisoned_update_is_computed_again(tmp_path):
  run = make_run(devices=1, model_dropout=0.0, model_L=1)
  run.steps, run.eval_every, run.sample_tokens = 60, 10, 0
  layout, cfg, update = updater(run)
  new = lambda: layout.new_state(lambda: step.new_state(run, cfg))  # noqa: E731

  def batch(number):
    rows = ragged_batch(number)
    return rows.replace(w_BT=rows.w_BT * np.nan) if number >= 25 else rows

  kept, told = checkpoint.Checkpoints(tmp_path / 'checkpoints'), []

  def poisoned(number, batch_number, before):
    told.append((number, batch_number, before()))
    return 'kept in a bundle'

  evaluate = lambda state, step: [{'valid_nll': 1.0}]  # noqa: E731
  trained = training(run, program_of(run), kept, tmp_path, batch, evaluate)
  with pytest.raises(loop.Diverged, match='update 26 is nan.*\nkept in a bundle'):
    loop.train(trained._replace(begin=new, poisoned=poisoned))
  kept.close()
  ((number, batch_number, state),) = told
  assert (number, batch_number, int(state.step)) == (26, 25, 25)
  wanted = new()
  for i in range(25):
    wanted, _ = update(wanted, batch(i))
  jax.tree.map(np.testing.assert_array_equal, state.params, wanted.params)


def test_parameters_that_are_not_finite_are_not_saved(tmp_path, monkeypatch):
  run = make_run(devices=1, model_L=1)
  run.steps, run.eval_every, run.sample_tokens = 4, 2, 0
  kept = checkpoint.Checkpoints(tmp_path / 'checkpoints')
  program = program_of(run)
  update = program.update

  def spoilt(state, batches):
    state, metrics = update(state, batches)
    if int(state.step) == 2:  # its loss and gradient were finite: only a save can see
      wpe = state.params['wpe'].at[-1, 0].set(np.inf)
      state = state.replace(params=state.params | {'wpe': wpe})
    return state, metrics

  monkeypatch.setattr(program, 'update', spoilt)
  trained = training(
    run, program, kept, tmp_path, ragged_batch, lambda state, step: [{'valid_nll': 1.0}]
  )
  with pytest.raises(loop.Diverged, match='^wpe is not finite after update 2;'):
    loop.train(trained)
  kept.close()
  assert kept.steps() == []
