"""Schedules in tokens, the length of a run, and runs that are made longer."""

import dataclasses
import json
import pathlib
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_text

from gpt_jax import config
from gpt_jax.config import UserError, length
from gpt_jax.config.experiment import load as experiment
from gpt_jax.runs import dry_run, reproduce, schedule, train, workdir
from gpt_jax.sweep import status
from gpt_jax.sweep.plan import Entry
from gpt_jax.training import metrics_log, optim, saved

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Tokens of a batch and learning rate of GPT-3's table 2.1.
GPT3 = {
  'Small': (2**19, 6.0e-4),
  'Medium': (2**19, 3.0e-4),
  'Large': (2**19, 2.5e-4),
  'XL': (2**20, 2.0e-4),
  '2.7B': (2**20, 1.6e-4),
  '6.7B': (2**21, 1.2e-4),
  '13B': (2**21, 1.0e-4),
  '175B': (3_276_800, 0.6e-4),
}


def gpt3(size):
  run = experiment(f'{ROOT}/experiments/gpt3/pretrain.py:{size}')
  config.check(run)
  return schedule.resolved(run, 0)


def each_update(run):
  """Returns the tokens of each update and those read before it, added up one by one."""
  sizes, T = length.stages_of(run), run.model.T
  ends = [*(stage.update for stage in sizes[1:]), run.steps]
  number = np.diff([0, *ends])
  tokens = np.repeat([stage.rows * T for stage in sizes], number)
  return tokens, np.cumsum(tokens) - tokens


def test_sizes_of_gpt3_s_updates_are_at_most_8_and_follow_the_line():
  ramps = []
  for size, (full, _) in GPT3.items():
    run = gpt3(size)
    tokens, before = each_update(run)
    sizes = np.unique(tokens)
    assert len(sizes) <= 8 and (sizes[0], sizes[-1]) == (2**15, full)
    # A layout that divides the first divides all.
    assert not (sizes % 2**15).any() and (np.diff(tokens) >= 0).all()
    assert abs((before[-1] + tokens[-1]) / 300e9 - 1) < 1e-3
    # Within half a stage of the line, at some token of the update.
    line = lambda read: np.minimum(  # noqa: E731
      2**15 + (full - 2**15) * read / run.batch_ramp,  # noqa: B023
      full,  # noqa: B023
    )
    place = np.searchsorted(sizes, tokens)
    middle = (sizes[1:] + sizes[:-1]) / 2
    assert (line(before + tokens) >= np.append(0, middle)[place]).all()
    assert (line(before) <= np.append(middle, full)[place]).all()
    ramps.append(run.batch_ramp)
  assert ramps == sorted(ramps) and (ramps[0], ramps[-1]) == (4e9, 12e9)


@pytest.mark.parametrize('size', GPT3)
def test_gpt3_s_rate_is_the_published_one_by_tokens(size):
  run, (_, lr) = gpt3(size), GPT3[size]
  tokens, before = each_update(run)
  found = schedule.rates(run, 0, run.steps).astype(np.float64)
  read = before + tokens

  def published(read):
    fall = np.clip((read - 375e6) / (260e9 - 375e6), 0, 1)
    return np.minimum(read / 375e6, 1) * lr * (0.55 + 0.45 * np.cos(np.pi * fall))

  np.testing.assert_allclose(found, published(read), rtol=1e-5)
  # The sum over all updates is the integral over all tokens, and the corners are there.
  at = np.linspace(0, 300e9, 3_000_001)
  curve = published(at)
  wanted = ((curve[1:] + curve[:-1]) / 2).sum() * (at[1] - at[0])
  assert abs((found * tokens).sum() / wanted - 1) < 1e-3
  assert abs(read[found.argmax()] / 375e6 - 1) < 1e-3
  np.testing.assert_allclose(found[read >= 260e9], lr / 10, rtol=1e-6)
  assert found[read <= 255e9][-1] > 1.005 * lr / 10


def plain(schedule='cosine', **fields):
  run = config.Run(steps=100, batch=4, model=config.Model(T=8))
  run.optim = config.Optim(lr=1.0, final_lr=0.1, schedule=schedule, **fields)
  return run


@pytest.mark.parametrize('name', ['cosine', 'linear', 'rsqrt', 'constant', 'wsd'])
def test_with_updates_of_one_size_tokens_say_the_same_as_updates(name):
  until = 80 if name in ('cosine', 'linear') else 0
  by_updates = plain(name, warmup=10, cooldown=20, until=until)
  by_tokens = plain(name, by='tokens', warmup=320, cooldown=640, until=32 * until)
  config.check(by_tokens)
  a, b = (schedule.rates(run, 0, 100) for run in (by_updates, by_tokens))
  np.testing.assert_allclose(a, b, rtol=1e-6)
  assert optim.Hyper.of(by_updates).read is None
  if until:
    np.testing.assert_allclose(a[79:], 0.1, rtol=1e-6)


def test_a_count_of_tokens_is_that_of_the_updates_of_a_ramp():
  run = plain(by='tokens', warmup=40)
  run.batch_start, run.batch_ramp, run.batch_stages = 1, 400, 3
  tokens, before = each_update(run)
  read = optim.Read.of(run)
  np.testing.assert_array_equal(read.after(jnp.arange(100.0)), before)
  assert float(read.after(jnp.float32(100))) == config.tokens_read(run) == tokens.sum()


def test_few_sizes_switch_half_way_and_all_sizes_where_the_line_is():
  # Of 1 to 9 rows over 80 tokens the line has 1 + t / 10.
  sizes = length.stages(9, start=1, ramp=80, T=1, most=3)
  assert [stage.rows for stage in sizes] == [1, 5, 9]
  assert [stage.row for stage in sizes[1:]] == [20, 60]
  every = length.stages(9, start=1, ramp=80, T=1)
  assert [stage.rows for stage in every] == list(range(1, 10))
  assert every[1].row == 10 and length.stages(9, 1, 80, 1, most=20)[1].row == 5
  assert length.stages(9, most=3) == [(0, 0, 9)]


def test_steps_are_the_fewest_that_read_the_tokens_or_epochs():
  run = plain(warmup=0)
  run.batch_start, run.batch_ramp, run.steps = 1, 300, 0
  for tokens in (1, 8, 9, 299, 300, 1000):
    run.tokens = tokens
    steps = schedule.resolved(run, 0).steps
    assert config.tokens_read(run, steps) >= tokens > config.tokens_read(run, steps - 1)
    assert run.steps == 0
  run.tokens, run.epochs = 0, 2.5
  steps = schedule.resolved(run, 100).steps
  assert config.tokens_read(run, steps) >= 250 > config.tokens_read(run, steps - 1)
  assert schedule.resolved(run, 0) is run


def test_a_run_has_one_length():
  words = 'steps=1000 and epochs=2.0 each say how long the run is: leave one'
  with pytest.raises(UserError, match=words):
    config.check(config.Run(epochs=2.0))
  with pytest.raises(UserError, match='tokens=5 and epochs=2.0 each say'):
    config.check(config.Run(steps=0, tokens=5, epochs=2.0))
  with pytest.raises(UserError, match='steps=0 must be at least 1; 0 needs another'):
    config.check(config.Run(steps=0))
  config.check(config.Run(steps=0, epochs=0.5))
  run = config.Run(steps=0, tokens=5)  # 1 update
  with pytest.raises(UserError, match='optim.warmup=100 must not exceed steps=1'):
    config.check(run)
  run = config.Run(steps=0, epochs=1.0)
  with pytest.raises(UserError, match='optim.warmup=100 must not exceed steps=1'):
    schedule.resolved(run, 10)


@pytest.mark.parametrize(
  'fields, words',
  [
    ({'warmup': 3201}, 'warmup=3201 must not exceed the tokens of 100 updates=3200'),
    ({'schedule': 'wsd', 'warmup': 0, 'cooldown': 3201}, 'cooldown=3201 must be in'),
    ({'warmup': 9, 'until': 8}, 'until=8 must be at least optim.warmup=9'),
    ({'schedule': 'wsd', 'cooldown': 8, 'until': 9}, 'until=9 must be 0 for the wsd'),
  ],
)
def test_schedules_in_tokens_must_fit_into_the_run(fields, words):
  with pytest.raises(UserError, match=words):
    config.check(plain(**{'warmup': 0, 'by': 'tokens'} | fields))


def test_a_single_size_for_a_batch_that_grows_is_refused():
  run = plain(warmup=0)
  run.batch_start, run.batch_ramp, run.batch_stages = 1, 400, 1
  with pytest.raises(UserError, match='batch_stages=1 must be at least 2'):
    config.check(run)


def test_a_schedule_is_said_in_words():
  run = gpt3('Small')
  text = '\n'.join(schedule.lines(run, 150 * 10**9))
  tokens, before = each_update(run)
  after = before + tokens
  assert f'{run.steps:,} updates, {after[-1]:,} tokens, 2 epochs of 150,0' in text
  assert 'batch     8 sizes, a program each, over 4,000,000,000 tokens' in text
  first = np.flatnonzero(tokens == 2**19)[0] + 1
  assert f'524,288 tokens from update {first:,} on' in text
  warm, low = (np.flatnonzero(after >= n)[0] + 1 for n in (375e6, 260e9))
  assert f'rate      0.0006 at 375,000,000 tokens, update {warm:,}, by cosine' in text
  assert f'6e-05 at 260,000,000,000 tokens, update {low:,}; 6e-05 in the last' in text
  wsd = plain('wsd', warmup=0, cooldown=30)
  assert schedule.rate_line(wsd) == (
    'rate      1 at once, constant to update 70, linearly to 0.1 at the last update, '
    '100; 0.1 in the last'
  )
  (unknown,) = schedule.lines(config.Run(steps=0, epochs=1.5))
  assert unknown.startswith('length    1.5 epochs: the updates follow from the text')


def test_the_cooldown_begins_where_the_rate_first_falls():
  for by, cooldown in (('updates', 30), ('tokens', 300), ('tokens', 320)):
    run = plain('wsd', by=by, warmup=0, cooldown=cooldown)
    falls = np.flatnonzero(schedule.rates(run, 0, 100) < 1)[0]
    assert schedule.cooldown_begins(run) == falls
  assert schedule.cooldown_begins(plain()) is None


def longer(run, steps):
  return config.from_flat({**config.flat(run), 'steps': steps})


def test_a_longer_run_says_what_its_rate_does():
  def said(run, done, steps=200):
    return schedule.continued(run, longer(run, steps), done)

  wsd = plain('wsd', warmup=0, cooldown=30)
  assert said(wsd, 70) == (
    'steps=200, and 100 before: the rates of the 70 updates done are those of the new '
    'length too, and update 71 has 1; the cooldown begins after update 170'
  )
  text = said(wsd, 100)
  assert 'from 0.1 in update 100 to 1 in the next; the cooldown begins after' in text
  assert 'Updates 71 to 100 had other rates' in text
  assert 'a copy of the workdir without its checkpoints after update 70' in text
  text = said(plain(warmup=0), 100)
  assert 'the rate goes from 0.1 in update 100 to 0.54' in text
  assert 'Updates 1 to 100 had other rates' in text and 'cosine is drawn to' in text
  kept = said(plain(warmup=0, until=80), 100)
  assert 'the rates of the 100 updates done are those of the new' in kept
  assert 'update 101 has 0.1' in kept
  assert said(wsd, 100, steps=100) == said(wsd, 0) == ''


def tiny(text, **fields):
  run = config.Run(
    steps=0,
    batch=8,
    log_every=1,
    eval_every=2,
    eval_batch=4,
    eval_tokens=64,
    keep=1,
    sample_tokens=0,
    devices=1,
    data=config.Data(source=str(text), tokenizer='chars', holdout=0.2),
    model=config.Model(L=1, D=8, N=2, T=16),
    optim=config.Optim(lr=1e-2, final_lr=0.0, schedule='wsd', warmup=0, cooldown=4),
  )
  for name, value in fields.items():
    setattr(run, name, value)
  return run


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  folder = tmp_path_factory.mktemp('place')
  tiny_text.write(folder)
  return folder


def entry_of(run, folder):
  return Entry(folder.name, {}, run, folder, [])


def losses(folder):
  lines = metrics_log.read_metrics(folder)
  return {line['step']: (line['loss'], line['lr']) for line in lines if 'loss' in line}


def test_a_run_by_epochs_is_printed_kept_and_trained_again(place, tmp_path):
  said = []
  run = tiny(place / 'text', steps=4)
  train.train(run, tmp_path / 'first', report=said.append)
  text = int(''.join(said).split(' tokens to train on')[0].split()[-1].replace(',', ''))
  run = tiny(place / 'text', epochs=9 * 8 * 16 / text)
  said = []
  train.train(run, tmp_path / 'run', report=said.append)
  assert 'finished: 9 updates. The best' in said[-1]
  assert any(line.startswith('rate      0.01 at once, constant to') for line in said)
  kept = workdir.read_run(tmp_path / 'run')
  assert (kept.steps, kept.epochs) == (9, run.epochs)
  entry = entry_of(run, tmp_path / 'run')
  assert status.steps_of(entry) == 9 and status.finished(entry)
  other = entry_of(tiny(place / 'text', epochs=9.0), tmp_path / 'run')
  assert not status.finished(other)
  assert not status.finished(entry_of(run, tmp_path / 'new'))
  every = dataclasses.replace(run, devices=0)  # jax runs already
  shown = dry_run.report(every, tmp_path / 'run')
  assert shown.startswith(
    f'length    9 updates, 1,152 tokens, {1152 / text:.3g} epochs'
  )
  again = []
  assert reproduce.reproduce(tmp_path / 'run', tmp_path / 'a', report=again.append)
  # Two of them in one program, of which one is there already.
  members = [
    train.Member(run, tmp_path / 'run'),
    train.Member(tiny(place / 'text', epochs=run.epochs, seed=1), tmp_path / 'seed'),
  ]
  assert train.train_together(members, report=said.append) == {}
  assert saved.done(tmp_path / 'seed') == 9


def test_a_wsd_run_branches_before_its_cooldown_bit_for_bit(place, tmp_path):
  first, said = tmp_path / 'first', []
  train.train(tiny(place / 'text', steps=10), first, report=said.append)
  steps = lambda folder: sorted(  # noqa: E731
    int(p.name) for p in (folder / 'checkpoints').iterdir() if p.name.isdigit()
  )
  # The last before the cooldown is kept, beside the latest and the best.
  assert 6 in steps(first) and 10 in steps(first)
  branch = tmp_path / 'branch'
  shutil.copytree(first, branch)
  for step in steps(branch):
    if step > 6:
      shutil.rmtree(branch / 'checkpoints' / str(step))
  train.train(tiny(place / 'text', steps=14), branch, report=said.append)
  assert any('the 6 updates done are those of the new length too' in s for s in said)
  straight = tmp_path / 'straight'
  train.train(tiny(place / 'text', steps=14), straight, report=said.append)
  assert losses(branch) == losses(straight)
  sums = lambda folder: metrics_log.read_checksums(folder)[-1]  # noqa: E731
  assert sums(branch) == sums(straight)
  # Made longer after its end, the rate goes up again, and this is said.
  said = []
  train.train(tiny(place / 'text', steps=14), first, report=said.append)
  assert any('from 0 in update 10 to 0.0075 in the next' in line for line in said)
  assert losses(first)[10][1] == 0 and losses(first)[11][1] != 0


def test_a_run_in_tokens_that_was_stopped_goes_on_the_same(place, tmp_path):
  def run(**fields):
    made = tiny(place / 'text', tokens=1500, **fields)
    made.batch_start, made.batch_ramp, made.batch_stages = 2, 800, 2
    made.optim.by, made.optim.warmup, made.optim.cooldown = 'tokens', 300, 200
    return made

  train.train(run(), tmp_path / 'a', report=lambda line: None)
  found = losses(tmp_path / 'a')
  read = np.cumsum(each_update(schedule.resolved(run(), 0))[0])
  rate = 0.01 * np.minimum(read / 300, 1) * np.clip((read[-1] - read) / 200, 0, 1)
  np.testing.assert_allclose([lr for _, lr in found.values()], rate, rtol=1e-5)
  about = json.loads((tmp_path / 'a/run.json').read_text())
  assert about['config']['tokens'] == 1500 and about['config']['steps'] == len(read)
  shutil.copytree(tmp_path / 'a', tmp_path / 'b')
  last = saved.done(tmp_path / 'b')
  shutil.rmtree(tmp_path / 'b/checkpoints' / str(last))
  train.train(run(), tmp_path / 'b', report=lambda line: None)
  assert losses(tmp_path / 'b') == found
