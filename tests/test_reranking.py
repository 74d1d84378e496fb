"""Re-ranking: against expectations over an exact distribution."""

import itertools
import math

import numpy as np
import pytest

from gpt_jax.config import UserError
from gpt_jax.decoding.reranking import minimum_risk, rerank, unigram_f1


def test_candidates_are_ranked_by_any_score_and_equal_ones_stay_in_order():
  ranked = rerank(['aa', 'b', 'cccc', 'd'], lambda texts: [len(x) for x in texts])
  assert ranked == [('cccc', 4), ('aa', 2), ('b', 1), ('d', 1)]
  assert rerank([], lambda texts: []) == []


def test_unigram_f1_counts_common_tokens_once_each():
  assert unigram_f1('the cat sat'.split(), 'the the cat'.split()) == 2 / 3
  assert unigram_f1([1, 2], [2, 1]) == 1
  assert unigram_f1([1], [2, 3, 4]) == 0
  assert unigram_f1([1], []) == 0 and unigram_f1([], []) == 1


def test_the_text_of_least_risk_is_that_of_brute_force():
  # All texts of three tokens: the risk of each is known exactly.
  texts = list(itertools.product(range(3), repeat=3))
  for seed in range(5):
    p = np.random.RandomState(seed).dirichlet([0.3] * len(texts))
    exact = [
      sum(p_ref * unigram_f1(one, ref) for ref, p_ref in zip(texts, p, strict=True))
      for one in texts
    ]
    ranked = minimum_risk(texts, weights=7 * p)
    np.testing.assert_allclose(
      [x.score for x in ranked], sorted(exact, reverse=True), rtol=1e-12
    )
    assert math.isclose(exact[texts.index(ranked[0].candidate)], max(exact))


def test_the_text_of_least_risk_need_not_be_the_likeliest():
  texts, logp = [(9, 9), (1, 2), (1, 3)], np.log([0.4, 0.3, 0.3])
  assert minimum_risk(texts, weights=np.exp(logp))[0].candidate in [(1, 2), (1, 3)]


def test_samples_count_as_often_as_they_were_drawn_and_any_utility_will_do():
  samples = [2.0, 2.0, 10.0]

  def closeness(candidate, reference):
    return -abs(candidate - reference)

  assert minimum_risk(samples, closeness)[0] == (2.0, -8 / 3)
  assert minimum_risk(samples, closeness)[2] == (10.0, -16 / 3)


@pytest.mark.parametrize(
  ('weights', 'message'),
  [
    ([1.0], '1 weights for 2 candidates'),
    ([0.0, 0.0], r'weights=\[0.0, 0.0\] must be at least 0, and not all 0'),
    ([-1.0, 2.0], r'weights=\[-1.0, 2.0\] must be at least 0'),
  ],
)
def test_weights_that_are_no_probabilities_are_refused(weights, message):
  with pytest.raises(UserError, match=message):
    minimum_risk([(1,), (2,)], weights=weights)


def test_a_score_for_each_candidate_is_required():
  with pytest.raises(UserError, match='1 scores for 2 candidates'):
    rerank(['a', 'b'], lambda texts: [0.0])
