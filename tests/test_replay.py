"""A poisoned update: its rows' documents, its bundle, and its replay."""

import os

import numpy as np
import pytest
import tiny_text

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.files import read_json
from gpt_jax.runs import replay, train
from gpt_jax.training import loop


def diverging():
  return config.Run(
    steps=8,
    batch=4,
    devices=1,
    eval_every=8,
    sample_tokens=0,
    model=config.Model(L=2, D=16, N=2, T=8),
    data=config.Data(source='text', tokenizer='chars'),
    optim=config.Optim(
      name='sgd', lr=1e7, final_lr=1e7, warmup=0, clip=0.0, schedule='constant'
    ),
  )


@pytest.fixture(scope='module')
def bundle(tmp_path_factory):
  place = tmp_path_factory.mktemp('replay')
  tiny_text.write(place)
  before = os.getcwd()
  os.chdir(place)
  try:
    with pytest.raises(loop.Diverged, match='to compute it again') as error:
      train.train(diverging(), place / 'run', report=lambda text: None)
  finally:
    os.chdir(before)
  (folder,) = (place / 'run').glob('poisoned_*')
  return folder, str(error.value)


def test_the_rows_of_a_poisoned_batch_are_named_by_file_and_offset(bundle):
  folder, said = bundle
  about = read_json(folder / 'bundle.json')
  with np.load(folder / 'batch.npz') as batch:
    assert batch['ids_BT'].shape == (4, 8)
  assert len(about['rows']) == 4
  for row in about['rows']:
    text = (folder.parents[1] / row['name']).read_text()
    inside = text[row['offset'] :]
    assert row['text'] and inside.startswith(row['text'][: len(inside)])
  first = about['rows'][0]
  assert f'row 0: document {first["document"]}, {first["name"]}, byte' in said
  assert 'and 1 more, in' in said


def test_replay_names_the_first_tensor_that_is_not_finite(bundle):
  folder, _ = bundle
  said = []
  name = replay.replay(folder, said.append)
  assert name.startswith(('output of h_', 'output of ', 'the loss', 'gradient of'))
  assert f'the first tensor that is not finite: {name}' in said[1]


def test_tensors_come_in_the_order_in_which_they_are_computed(bundle):
  folder, _ = bundle
  values = dict(replay.tensors(folder))
  assert 'wte before the update' in values and 'wte after the update' in values
  order = list(values)
  assert order.index('output of h_0') < order.index('output of h_1')
  assert order.index('output of h_1') < order.index('the loss')
  assert order.index('the loss') < order.index("the gradient's norm")


def test_what_is_no_bundle_is_refused(bundle, tmp_path):
  with pytest.raises(UserError, match='is no bundle: it has no bundle.json'):
    replay.replay(tmp_path)
  (tmp_path / 'bundle.json').write_text('{"config": {"stepz": 3}}')
  with pytest.raises(UserError, match='is damaged: .*stepz'):
    replay.replay(tmp_path)
