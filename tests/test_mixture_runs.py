"""Runs on mixtures: prepared, trained, resumed; stages begin, and sources grow."""

import os

import numpy as np
import pytest

from gpt_jax import config
from gpt_jax.config import UserError, length
from gpt_jax.files import read_json, write_json
from gpt_jax.runs import rows, tokens, train
from gpt_jax.runs.evaluate import baselines, held_out_metrics
from gpt_jax.runs.workdir import read_about
from gpt_jax.training.metrics_log import read_metrics

WORDS = 'the cat dog sees hears a bird and then we you they'.split()


def write(folder, numbers, seed):
  folder.mkdir(exist_ok=True)
  for i in numbers:
    rng = np.random.default_rng((seed, i))
    (folder / f'{i:02}.txt').write_text(' '.join(rng.choice(WORDS, 80)))


@pytest.fixture
def place(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  write(tmp_path / 'one', range(12), 0)
  write(tmp_path / 'two', range(10), 1)
  return tmp_path


def a_run(weights='one=3, two=1', **fields):
  return config.Run(
    **{'steps': 20, 'batch': 4, 'devices': 1, 'eval_every': 3} | fields,
    sample_tokens=0,
    log_every=1,
    model=config.Model(L=1, D=16, N=2, T=8),
    data=config.Data(
      source='', mixture='one=one; two=two', weights=weights, tokenizer='chars'
    ),
    optim=config.Optim(warmup=0, schedule='constant'),
  )


def prepared(run, workdir, done=None, trains=True):
  """Prepares a run, of which `done` updates are then done; returns its tokens."""
  workdir.mkdir(exist_ok=True)
  said = []
  data = tokens.prepared(run, workdir, said.append, trains=trains)
  if done is not None:
    about = {'config': config.flat(run), 'vocab': 1, 'data': data.digests()}
    write_json(workdir / 'run.json', about)
  return data, said


@pytest.fixture
def done(monkeypatch):
  """A setter of how many updates are done."""
  return lambda number: monkeypatch.setattr(tokens.saved, 'done', lambda _: number)


def keys(data):
  return [[data.sources[i].key for i in stage.sources] for stage in data.stages]


def test_a_source_is_prepared_once_per_tokenizer_and_shared(place):
  run = a_run()
  run.data.tokens = str(place / 'shared')
  first, said = prepared(run, place / 'a')
  assert any(line.startswith('one: ') for line in said)
  second, said = prepared(run, place / 'b')
  assert said == [] and keys(first) == keys(second)
  assert sorted(os.listdir(place / 'shared/sources')) == ['one', 'two']
  run.data.tokenizer = 'bytes'
  third, _ = prepared(run, place / 'c')
  assert keys(third) != keys(first)
  assert len(os.listdir(place / 'shared/sources/one')) == 2
  # Held-out text is a share of each.
  assert [source.valid.documents for source in first.sources] == [1, 1]


def test_a_stage_that_began_keeps_its_weights(place, done):
  run, workdir = a_run(), place / 'w'
  first, _ = prepared(run, workdir, 0)
  done(5)
  run.data.weights = 'one=1, two=1'
  with pytest.raises(UserError, match='that began with update 0 has one 7,500, two 2,'):
    prepared(run, workdir)
  run.data.weights = 'one=3, two=1; 4: two=1'
  with pytest.raises(UserError, match='begins with update 4, but 5 are done'):
    prepared(run, workdir)
  run.data.weights = 'one=6, two=2; 5: two=1'
  second, _ = prepared(run, workdir, 5)
  assert keys(second) == keys(first) * 2
  done(6)
  run.data.weights = 'one=3, two=1; 5: one=1'
  with pytest.raises(UserError, match='began with update 5 has two 10,000 of 10,000'):
    prepared(run, workdir)


def test_a_source_grows_between_stages_and_not_within_one(place, done):
  run, workdir = a_run(), place / 'w'
  first, _ = prepared(run, workdir, 0)
  done(5)
  write(place / 'one', range(12, 20), 0)
  with pytest.raises(UserError, match='one=one is not what it was when the stage'):
    prepared(run, workdir)
  # Who only reads the run reads what it was trained on.
  assert keys(prepared(run, workdir, trains=False)[0]) == keys(first)
  run.data.weights = 'one=3, two=1; 7: one=1, two=1'
  grown, said = prepared(run, workdir, 5)
  assert 'one has changed: read as it is now from update 7 on' in said
  (one, two), (other, same) = keys(grown)
  assert [one, two] == keys(first)[0] and other != one and same == two
  recorded = read_about(workdir)['data']['mixture']
  assert [each['sources']['one']['snapshot'] for each in recorded] == [one, other]
  assert recorded[0]['rows'] == {'one': 7500, 'two': 2500}
  # The newest text is drawn from its first row; the other source's rows go on.
  sizes = [length.Stage(0, 0, 4)]
  files, numbers = rows.mixture_of(grown.stages, sizes).draw(np.arange(60))
  later = files[28:] == grown.stages[1].sources[0]
  assert numbers[28:][later].tolist() == list(range(16))
  assert numbers[files == grown.stages[0].sources[1]].tolist() == list(range(7 + 16))
  # What is evaluated stays the same text.
  assert [s.key for s in grown.held_out] == [one, two]
  done(8)
  write(place / 'two', range(10, 20), 1)
  with pytest.raises(UserError, match='two=two is not what it was when the stage of'):
    prepared(run, workdir)


def test_new_documents_must_stand_behind_the_others(place, done):
  run, workdir = a_run(), place / 'w'
  prepared(run, workdir, 0)
  done(5)
  (place / 'one' / '00a.txt').write_text('the cat and the dog')
  run.data.weights = 'one=3, two=1; 7: one=1, two=1'
  with pytest.raises(UserError, match='the held-out text of one was other text when'):
    prepared(run, workdir)


def test_tokens_are_enough_to_go_on_and_must_be_those_of_the_run(place, done):
  run, workdir = a_run(), place / 'w'
  first, _ = prepared(run, workdir, 0)
  done(5)
  os.rename(place / 'one', place / 'elsewhere')
  assert keys(prepared(run, workdir)[0]) == keys(first)
  os.rename(place / 'elsewhere', place / 'one')
  about = read_json(workdir / 'run.json')
  about['data']['mixture'][0]['sources']['one']['train'] = 'other'
  write_json(workdir / 'run.json', about)
  with pytest.raises(UserError, match='holds other tokens than the run was trained on'):
    prepared(run, workdir)


def test_a_mixture_is_trained_resumed_and_evaluated(place):
  said, run = [], a_run('one=3, two=1; 4: one=1, two=1', steps=6, eval_tokens=64)
  train.train(run, place / 'whole', report=said.append)
  lines = [line for line in said if line.startswith('  one: ')]
  (source,) = {
    int(line.split(' of ')[-1].split()[0].replace(',', '')) for line in lines
  }
  assert '75.00 %, 50.00 % from update 4 of the rows, 128 of' in lines[0]
  assert f'({128 / source:.2f} epochs)' in lines[0]
  train.train(a_run('one=3, two=1', steps=3, eval_tokens=64), place / 'parts')
  train.train(run, place / 'parts')
  whole, parts = (
    [
      (line['step'], line['loss'])
      for line in read_metrics(place / each)
      if 'loss' in line
    ]
    for each in ('whole', 'parts')
  )
  assert whole == parts and len(whole) == 6
  last = read_metrics(place / 'whole')[-1]
  assert {'valid_nll/one', 'valid_nll/two', 'valid_bpb/one'} <= last.keys()
  together = 0.75 * last['valid_nll/one'] + 0.25 * last['valid_nll/two']
  assert last['valid_nll'] == pytest.approx(together)
  scores = held_out_metrics(place / 'whole', 'latest')
  assert scores['valid_nll'] == pytest.approx(
    0.75 * scores['valid_nll/one'] + 0.25 * scores['valid_nll/two']
  )
  with pytest.raises(UserError, match='the run has a mixture of one, two'):
    baselines(place / 'whole')


def losses(workdir):
  return [line['loss'] for line in read_metrics(workdir) if 'loss' in line]


def test_devices_micro_batches_and_members_read_the_same_rows(place):
  fields = {'steps': 4, 'batch': 8, 'weights': 'one=3, two=1; 3: two=1'}
  train.train(a_run(**fields), place / 'plain', report=lambda line: None)
  more = {'devices': 2, 'layout': 'data=2', 'accumulate': 2}
  train.train(a_run(**fields, **more), place / 'cut', report=lambda line: None)
  assert losses(place / 'cut') == pytest.approx(losses(place / 'plain'), rel=1e-4)
  train.train_together(
    [train.Member(a_run(**fields, seed=seed), place / f'{seed}') for seed in (0, 1)],
    report=lambda line: None,
  )
  assert losses(place / '0') == pytest.approx(losses(place / 'plain'), rel=1e-4)
  assert losses(place / '1') != pytest.approx(losses(place / 'plain'), rel=1e-4)
