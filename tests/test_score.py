"""Likelihoods of continuations: many at once as each alone, each as by definition."""

import functools

import jax
import numpy as np
import pytest

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.evaluation import score
from gpt_jax.model.gpt import GPT, Shape, init_params

VOCAB, T = 11, 16
SHAPE = Shape.of(config.Model(L=1, D=16, N=2, T=T), VOCAB)
# Of a log-probability [nats]: products of other shapes round differently.
SAME = 1e-4


@functools.cache
def params():
  """Weights far enough from zero that the likeliest token varies."""
  draw = np.random.default_rng(0).standard_normal
  like = jax.eval_shape(lambda: init_params(SHAPE, 0))
  return jax.tree.map(lambda x: 0.5 * draw(x.shape, np.float32), like)


@jax.jit
def _logits(params, ids_BT):
  return GPT(SHAPE).apply({'params': params}, ids_BT)[0]


def by_definition(context, continuation):
  """Returns log p of each token and whether it is the likeliest, token by token."""
  ids = (context + continuation)[-T - 1 :]
  logps, best = [], []
  for n in range(len(ids) - len(continuation), len(ids)):
    # What follows a token is none of its business: this one program serves all.
    row = np.array(ids[:n] + [VOCAB - 1] * (T - n), np.int32)[None]
    logits = np.asarray(_logits(params(), row), np.float64)[0, n - 1, :VOCAB]
    logps.append(logits[ids[n]] - np.log(np.exp(logits).sum()))
    best.append(bool(logits[ids[n]] == logits.max()))
  return logps, best


def pairs_of(lengths, seed=0):
  draw = np.random.default_rng(seed).integers
  return [
    (draw(VOCAB, size=n).tolist(), draw(VOCAB, size=m).tolist()) for n, m in lengths
  ]


# Of one token and of all there is room for; of contexts that must be cut.
PAIRS = pairs_of(
  [(1, 1), (1, T), (T, 1), (40, 3), (40, T), (3, 2), (2, 1), (7, 9), (8, 9), (6, 2)] * 2
)


@pytest.mark.parametrize('rows', [1, 3])
def test_many_continuations_score_as_each_by_definition(rows):
  found = score.score_continuations(params(), SHAPE, PAIRS, rows)
  assert len(found) == len(PAIRS)
  for pair, scores in zip(PAIRS, found, strict=True):
    logp, best = by_definition(*pair)
    np.testing.assert_allclose(scores.logp, logp, atol=SAME)
    assert scores.best == best
  assert 0 < np.mean([best for scores in found for best in scores.best]) < 0.9


def test_one_continuation_scores_as_by_definition():
  for pair in PAIRS[3:6]:
    found = score.continuation_logp(params(), SHAPE, *pair)
    np.testing.assert_allclose(found, by_definition(*pair)[0], atol=SAME)


def test_texts_of_a_bucket_share_a_program():
  def programs(lengths):
    score.score_continuations(params(), SHAPE, pairs_of(lengths), 2)
    return score._nll_and_best._cache_size()

  before = programs([(5, 1)] * 5)
  assert programs([(4, 2), (5, 4), (1, 8), (3, 3), (2, 4), (6, 1), (7, 1)]) == before
  assert programs([(9, 1)] * 4) > before


def test_nothing_to_score_is_nothing():
  assert score.score_continuations(params(), SHAPE, []) == []


@pytest.mark.parametrize('lengths', [(0, 3), (3, 0), (1, T + 1)], ids=str)
def test_what_cannot_be_scored_is_refused(lengths):
  pairs = pairs_of([(2, 2), lengths])
  with pytest.raises(UserError, match=f'context of {lengths[0]} .* of {lengths[1]} '):
    score.score_continuations(params(), SHAPE, pairs)
