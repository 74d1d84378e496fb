"""Documents of a packed row kept apart, in every way in which an update is computed."""

import dataclasses

import jax
import numpy as np
import pytest
from updates import make_run, ragged_batch, trained

from gpt_jax.model.gpt_config import Execution

# Where the documents of each row begin: one, two, three, .. and each token its own.
BEGINS = [0], [0, 4], [0, 1, 6], [0, 2, 4, 6], [0, 7], [0], [0, 3], list(range(8))


def packed(seed=0):
  """Returns 8 rows of several documents."""
  first_BT = [[max(b for b in begins if b <= t) for t in range(8)] for begins in BEGINS]
  return ragged_batch(seed).replace(first_BT=np.array(first_BT, np.int32))


def run_of(**fields):
  model = {'model_attention': 'dense,banded', 'model_band': 3, 'devices': 1}
  return make_run(**model | {'model_documents': 'apart'} | fields)


@pytest.fixture(scope='module')
def plain():
  """Parameters and losses of the plainest way: one device, layers unrolled."""
  return trained(run_of(), updates=2, batch=packed)


WAYS = {
  'remat attention': {'model_remat': 'attention'},
  'loop of remat blocks': {'model_scan': True, 'model_remat': 'block'},
  'gradients of autodiff': {'model_gradients': 'plain'},
  'micro-batches on devices': {'accumulate': 2, 'devices': 2},
  'tokens over devices': {'layout': 'data=2,context=2', 'devices': 4},
  'all cut': {'layout': 'fsdp=2,tensor=2', 'devices': 4, 'model_scan': True},
  'form of GPUs': {},
  'our kernel': {},
}


@pytest.mark.parametrize('way', WAYS)
def test_documents_apart_give_the_same_updates_in_every_way(plain, way, monkeypatch):
  changed = {
    'form of GPUs': {'fused': True},
    'our kernel': {'kernel': 'interpret'},
  }.get(way, {})
  usual = Execution.of
  monkeypatch.setattr(
    Execution,
    'of',
    lambda *args, **how: dataclasses.replace(usual(*args, **how), **changed),
  )
  params, losses = trained(run_of(**WAYS[way]), updates=2, batch=packed)
  np.testing.assert_allclose(losses, plain[1], rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    params,
    plain[0],
  )


def test_documents_joined_are_another_model_and_the_default(plain):
  joined = run_of(model_documents='joined')
  assert make_run().model.documents == 'joined'
  _, losses = trained(joined, updates=1, batch=ragged_batch)
  assert abs(losses[0] - plain[1][0]) > 1e-4
