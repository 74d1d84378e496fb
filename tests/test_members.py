"""Runs in one program equal runs by themselves, in workdirs of their own."""

import copy
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import tiny_text
import updates

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.model.gpt import init_params
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.runs import train
from gpt_jax.training import checkpoint, sharding, step
from gpt_jax.training.members import Together
from gpt_jax.training.metrics_log import CLOCK_FIELDS, read_metrics

# Products over several runs may add in another order.
TOLERANCE = {'rtol': 2e-4, 'atol': 2e-5}


def say_nothing(text):
  pass


def alike(found, want):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **TOLERANCE), found, want)


def paired(some, folders):
  return [train.Member(*pair) for pair in zip(some, folders, strict=True)]


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """A folder with a text, and its tokens once they are made."""
  folder = tmp_path_factory.mktemp('together')
  tiny_text.write(folder)
  return folder


def base(place, **optim):
  return config.Run(
    steps=12,
    batch=8,
    devices=1,
    accumulate=2,
    log_every=2,
    eval_every=4,
    eval_batch=4,
    sample_tokens=4,
    prompts=('the',),
    data=config.Data(
      source=str(place / 'text'),
      tokenizer='chars',
      holdout=0.2,
      tokens=str(place / 'tokens'),
    ),
    # The gradient of the key's bias is zero but for rounding, which Adam amplifies.
    model=config.Model(L=1, D=16, N=2, T=16, dropout=0.1, qkv_bias=False),
    optim=config.Optim(**{'lr': 1e-2, 'schedule': 'constant', 'warmup': 3, **optim}),
  )


def changed(run, **fields):
  run = copy.deepcopy(run)
  for name, value in fields.items():
    part, _, last = name.rpartition('__')
    setattr(getattr(run, part) if part else run, last, value)
  return run


@pytest.fixture(scope='module')
def members(place):
  run = base(place)
  other = changed(
    run, seed=3, optim__lr=3e-3, optim__weight_decay=0.3, model__dropout=0.3
  )
  return [run, changed(run, seed=1), changed(other, optim__warmup=6, optim__beta2=0.9)]


@pytest.fixture(scope='module')
def trained(place, members):
  folders = [place / f'together_{i}' for i in range(3)]
  assert train.train_together(paired(members, folders), report=say_nothing) == {}
  return folders


@pytest.fixture(scope='module')
def separate(place, members):
  folders = [place / f'separate_{i}' for i in range(3)]
  for run, folder in zip(members, folders, strict=True):
    train.train(run, folder, report=say_nothing)
  return folders


def state_of(run, folder, at):
  layout = sharding.Layout.of(run)
  cfg = GPTConfig.of(run.model, json.loads((folder / 'run.json').read_text())['vocab'])
  saved = checkpoint.Checkpoints(folder / 'checkpoints')
  try:
    return jax.device_get(
      saved.restore(at, layout.state_shapes(lambda: step.new_state(run, cfg)))
    )
  finally:
    saved.close()


def test_each_run_is_what_it_is_by_itself(members, trained, separate):
  losses = []
  for run, mine, theirs in zip(members, trained, separate, strict=True):
    lines, wanted = read_metrics(mine), read_metrics(theirs)
    assert [line['step'] for line in lines] == [line['step'] for line in wanted]
    for line, want in zip(lines, wanted, strict=True):
      assert line.keys() == want.keys()
      for name in line.keys() - set(CLOCK_FIELDS):
        np.testing.assert_allclose(line[name], want[name], **TOLERANCE, err_msg=name)
    losses.append(lines[-1]['valid_nll'])
    found, want = state_of(run, mine, 12), state_of(run, theirs, 12)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, **TOLERANCE), found, want
    )
    samples = (mine / 'samples.txt').read_text()
    assert samples.count('=== step') == 3
    about, other = (json.loads((f / 'run.json').read_text()) for f in (mine, theirs))
    assert about['config'] == other['config'] and about['data'] == other['data']
  assert len(set(losses)) == 3  # runs that are alike would prove nothing


def test_runs_go_on_together_and_by_themselves_and_lose_nothing(
  place, members, trained
):
  some = [dataclasses.replace(run, steps=4) for run in members]
  folders = [place / f'some_{i}' for i in range(3)]
  train.train_together(paired(some, folders), report=say_nothing)
  ahead = dataclasses.replace(members[0], steps=8)
  train.train(ahead, folders[0], report=say_nothing)

  # Now they stand at different updates, as after a kill in the midst of saving.
  told = []
  train.train_together(paired(members, folders), report=told.append)
  assert '3 of 3 runs, together' in told
  assert [text for text in told if text.startswith('going on')] == [
    'going on from the checkpoints of update 4',
    'going on from the checkpoints of update 8',
  ]
  for run, folder, whole in zip(members, folders, trained, strict=True):
    steps = [[line['step'] for line in read_metrics(each)] for each in (folder, whole)]
    assert steps[0] == steps[1]
    alike(state_of(run, folder, 12), state_of(run, whole, 12))
  sessions = json.loads((folders[0] / 'run.json').read_text())['sessions']
  assert [each['starts'] for each in sessions] == [[0], [4], [8]]
  assert train.train_together(paired(members, folders), report=told.append) == {}
  assert '0 of 3 runs, together' in told


def test_a_damaged_checkpoint_of_one_run_is_passed_over(
  place, members, trained, tmp_path
):
  folders = [tmp_path / folder.name for folder in trained]
  for folder, own in zip(trained, folders, strict=True):
    shutil.copytree(folder, own)
  (path,) = (folders[1] / 'checkpoints/12/rest/d').iterdir()
  path.write_bytes(path.read_bytes()[:-1])
  told = []
  train.train_together(paired(members, folders), report=told.append)
  assert any('checkpoint 12 is damaged (rest/d/' in text for text in told)
  assert '1 of 3 runs, together' in told
  assert [line['step'] for line in read_metrics(folders[1])] == [
    line['step'] for line in read_metrics(trained[1])
  ]
  alike(state_of(members[1], folders[1], 12), state_of(members[1], trained[1], 12))


def test_on_several_devices_all_runs_are_updated_at_once(place, members, trained):
  folders = [place / f'spread_{i}' for i in range(3)]
  spread = [changed(run, devices=3) for run in members]
  train.train_together(paired(spread, folders), report=say_nothing)
  for run, folder, whole in zip(members, folders, trained, strict=True):
    alike(state_of(run, folder, 12), state_of(run, whole, 12))


def test_a_run_that_diverges_leaves_the_others_alone(place, members, trained):
  wild = changed(members[0], seed=5, optim__lr=1e30)
  folders = [place / 'calm', place / 'wild']
  pairs = paired([members[0], wild], folders)
  found = train.train_together(pairs, report=say_nothing)
  assert found == {folders[1]: found[folders[1]]} and 1 < found[folders[1]] < 12
  assert all(line['step'] < found[folders[1]] for line in read_metrics(folders[1]))
  for line, want in zip(
    read_metrics(folders[0]), read_metrics(trained[0]), strict=True
  ):
    np.testing.assert_allclose(line.get('loss', 0), want.get('loss', 0), **TOLERANCE)
  # Asked again, it is known, and nothing is done again; alone, it is the answer too.
  told = []
  assert train.train_together(pairs, report=told.append) == found
  assert '0 of 2 runs, together' in told
  assert train.train_together(paired([wild], [place / 'wild2']), report=say_nothing)


def test_runs_of_several_kinds_are_refused(place):
  run = base(place)
  for fields in (
    {'optim__clip': 0.0},
    {'model__D': 32},
    {'optim__schedule': 'cosine'},
    {'optim__guard': 'skip'},
    {'steps': 13},
  ):
    assert train.kind(run) != train.kind(changed(run, **fields)), fields
    with pytest.raises(UserError, match='differ in more than their seed and numbers'):
      both = [run, changed(run, **fields)]
      train.train_together(paired(both, [place / 'a', place / 'b']))
  same = changed(run, seed=9, optim__lr=1.0, optim__clip=3.0, optim__beta1=0.5)
  assert train.kind(run) == train.kind(same)
  assert not (place / 'a').exists()


@pytest.mark.parametrize('devices', [3, 6, 2])
def test_members_and_rows_over_devices_equal_one_device(devices):
  """3 members: apart; each on two devices, which share its rows; all on one of two."""

  def trained_on(number):
    runs = [updates.make_run(seed=seed, accumulate=2) for seed in range(3)]
    cfg = GPTConfig.of(runs[0].model, updates.VOCAB)
    objective = updates.objective_of(runs[0], cfg, sharding.Layout.of(runs[0]))
    program = Together(runs, objective, jax.devices()[:number], share_rows=True)
    make = lambda seed: step.init_state(  # noqa: E731
      runs[0], init_params(cfg, seed), cfg.width
    )
    state = program.begin(make, seeds=range(3))
    batch = [updates.ragged_batch(seed) for seed in range(3)]
    state, metrics = program.update(state, program.put(batch))
    return jax.device_get((state.params, metrics))

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
    trained_on(devices),
    trained_on(1),
  )
