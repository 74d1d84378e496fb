"""Likelihoods of continuations: many at once as each alone, each as by definition."""

import functools

import jax
import numpy as np
import pytest

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.evaluation import likelihood, packing
from gpt_jax.model.gpt import GPT, init_params, unembed
from gpt_jax.model.gpt_config import GPTConfig

VOCAB, T = 11, 16
SHAPE = GPTConfig.of(config.Model(L=1, D=16, N=2, T=T), VOCAB)
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
  x = GPT(SHAPE).apply({'params': params}, ids_BT)[0]
  return unembed(GPT(SHAPE), params, x)


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


def compare(pairs, found):
  for pair, scores in zip(pairs, found, strict=True):
    logp, best = by_definition(*pair)
    np.testing.assert_allclose(scores.logp, logp, atol=SAME)
    assert scores.best == scores.best_allowed == best


def test_many_continuations_score_as_each_by_definition():
  found = likelihood.score_continuations(params(), GPT(SHAPE), PAIRS)
  compare(PAIRS, found)
  assert 0 < np.mean([best for scores in found for best in scores.best]) < 0.9


def test_one_continuation_scores_as_by_definition():
  for pair in PAIRS[3:6]:
    found = likelihood.continuation_logp(params(), GPT(SHAPE), *pair)
    np.testing.assert_allclose(found, by_definition(*pair)[0], atol=SAME)


def families(T=T):
  """Returns pairs with much in common: options, some of which begin others."""
  (a, _), (b, _), (c, _) = pairs_of([(6, 1), (9, 1), (4, 1)], seed=1)
  options = [[1], [1, 2], [1, 2, 3], [4, 2], [1], [5, 5, 5]]
  pairs = [(context, option) for context in (a, b, c, a[:3]) for option in options]
  pairs += [(a + [7], [3, 1]), (a + [8], [3, 1]), (a, a), ([1], [1]), ([1], [1, 1])]
  return [(x[: T - 1], y) for x, y in pairs]


def test_what_texts_have_in_common_does_not_change_their_scores():
  compare(families(), likelihood.score_continuations(params(), GPT(SHAPE), families()))


def test_what_all_have_in_common_is_read_once(monkeypatch):
  monkeypatch.setattr(likelihood, '_WIDTH', 2)  # so that four tokens are worth it
  pairs = [([3, 1, 4, 1, 5, *x], y) for x, y in families(T - 5)]
  assert packing.shared([likelihood._text(*pair, T) for pair in pairs]) == 5
  seen = []
  real = likelihood._read
  monkeypatch.setattr(
    likelihood, '_read', lambda *a, **k: seen.append(a) or real(*a, **k)
  )
  compare(pairs, likelihood.score_continuations(params(), GPT(SHAPE), pairs))
  assert len(seen) == 1


def test_banned_ids_are_no_rivals():
  free = likelihood.score_continuations(params(), GPT(SHAPE), PAIRS)
  tokens = [(y, one.best) for (_, y), one in zip(PAIRS, free, strict=True)]
  best = [
    t for y, bests in tokens for t, is_best in zip(y, bests, strict=True) if is_best
  ]
  banned = np.zeros(SHAPE.V, bool)
  banned[np.bincount(best).argmax()] = True
  found = likelihood.score_continuations(params(), GPT(SHAPE), PAIRS, banned)
  for (context, continuation), scores in zip(PAIRS, found, strict=True):
    for n, token in enumerate(continuation):
      row = np.array((context + continuation[:n])[-T:], np.int32)
      if len(context) + len(continuation) > T + 1:
        continue  # cut at another place
      row = np.concatenate([row, np.zeros(T - len(row), np.int32)])[None]
      at = len(context) + n - 1
      logits = np.asarray(_logits(params(), row))[0, at, :VOCAB]
      rivals = np.where(banned[:VOCAB], -np.inf, logits)
      assert scores.best_allowed[n] == (rivals.argmax() == token)
      assert scores.best[n] == (logits.argmax() == token)
  assert any(one.best != one.best_allowed for one in found)


@pytest.mark.parametrize('norm', ['pre', 'post'])
def test_banded_layers_see_the_same_band(norm):
  cfg = GPTConfig.of(
    config.Model(L=2, D=16, N=2, T=T, attention='dense,banded', band=3, norm=norm),
    VOCAB,
  )
  weights = jax.jit(lambda: init_params(cfg, 0))()
  program = jax.jit(
    lambda params, ids_BT: jax.nn.log_softmax(
      unembed(GPT(cfg), params, GPT(cfg).apply({'params': params}, ids_BT)[0])
    )
  )
  for (context, continuation), found in zip(
    families(),
    likelihood.score_continuations(weights, GPT(cfg), families()),
    strict=True,
  ):
    read = (context + continuation)[:-1]
    row = np.array(read + [0] * (T - len(read)), np.int32)[None]
    logp = np.asarray(program(weights, row))[0, : len(read)][-len(continuation) :]
    expected = logp[np.arange(len(continuation)), continuation]
    np.testing.assert_allclose(found.logp, expected, atol=SAME)


@pytest.mark.parametrize('W', [4, 16, 64])
@pytest.mark.parametrize('skip', [0, 1])
def test_rows_hold_every_text_once_and_no_token_twice(W, skip):
  pairs = [([3, *x], y) for x, y in families()]
  texts = [likelihood._text(*pair, 99) for pair in pairs]
  rows = packing.packed(texts, W, skip)
  asked = [i for row in rows for i, _ in row.asked]
  assert sorted(asked) == list(range(len(texts)))
  for row in rows:
    for i, places in row.asked:
      text = texts[i]
      assert len(places) == len(text.ids) - text.known
      # Walk from the last place to the root: those that the mask lets it see.
      last = places[-1]
      way = [s for s in range(last + 1) if row.end[s] > last]
      assert row.ids[way].tolist() == text.read[skip:].tolist()
      assert row.pos[way].tolist() == list(range(skip, len(text.read)))
  longest = max(text.known for text in texts)
  assert all(len(row.ids) <= packing.round_up(longest + W) for row in rows)
  used = sum(sum(row.end > np.arange(len(row.ids)) + 1) for row in rows)
  assert used < sum(len(text.read) for text in texts)
  assert [len(row.ids) for row in rows] == sorted(
    (len(row.ids) for row in rows), reverse=True
  )


def test_many_texts_behind_one_short_context_make_no_large_tree():
  pairs = [([5, 7], [i % 11, i // 11, *[i % 7] * 40]) for i in range(121)]
  texts = [likelihood._text(*pair, 999) for pair in pairs]
  rows = packing.packed(texts, 256)
  assert max(len(row.ids) for row in rows) == 256
  assert len(rows) < 1.1 * sum(len(text.read) for text in texts) / 256


def test_texts_of_many_lengths_share_a_program():
  def programs(pairs):
    likelihood.score_continuations(params(), GPT(SHAPE), pairs)
    return likelihood._states._cache_size()

  before = programs(pairs_of([(8, 9)] * 40))
  for seed in range(3):
    lengths = [(1 + n % 8, 1 + n % 9) for n in range(41 + 20 * seed)]
    assert programs(pairs_of(lengths, seed)) <= before + 1 + seed  # the last row's


def test_nothing_to_score_is_nothing():
  assert likelihood.score_continuations(params(), GPT(SHAPE), []) == []


@pytest.mark.parametrize('lengths', [(0, 3), (3, 0), (1, T + 1)], ids=str)
def test_what_cannot_be_scored_is_refused(lengths):
  pairs = pairs_of([(2, 2), lengths])
  with pytest.raises(UserError, match=f'context of {lengths[0]} .* of {lengths[1]} '):
    likelihood.score_continuations(params(), GPT(SHAPE), pairs)


def test_metrics_of_held_out_text_are_those_of_its_nats():
  found = likelihood.held_out_metrics(6.0, 4, bytes_per_token=3.0)
  assert found == {
    'valid_nll': 1.5,
    'valid_ppl': pytest.approx(np.exp(1.5)),
    'valid_bpb': pytest.approx(1.5 / np.log(2) / 3),
  }
  assert likelihood.held_out_metrics(1e6, 1, 1.0)['valid_ppl'] < np.inf
