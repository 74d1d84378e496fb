"""Chooses among finished candidates by any score, or by expected utility."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

from gpt_jax.config import UserError


class Ranked(NamedTuple):
  """A candidate and what it is ranked by; more is better."""

  candidate: Any
  score: float


def rerank(
  candidates: Sequence[Any], score_fn: Callable[[Sequence[Any]], Sequence[float]]
) -> list[Ranked]:
  """Returns the candidates, best first; equal ones in their order.

  Args:
    candidates: whatever `score_fn` takes.
    score_fn: all candidates -> a number for each, so that a model scores them in one
      batch.
  """
  scores = [float(score) for score in score_fn(candidates)]
  if len(scores) != len(candidates):
    raise UserError(
      f'score_fn gave {len(scores)} scores for {len(candidates)} candidates; it must '
      'give one each'
    )
  ranked = [Ranked(*x) for x in zip(candidates, scores, strict=True)]
  return sorted(ranked, key=lambda x: -x.score)


def unigram_f1(candidate: Sequence[Hashable], reference: Sequence[Hashable]) -> float:
  """Returns the harmonic mean of precision and recall of the tokens, in [0, 1]."""
  if not candidate or not reference:
    return float(len(candidate) == len(reference))
  common = Counter(candidate) & Counter(reference)
  return 2 * common.total() / (len(candidate) + len(reference))


def minimum_risk(
  candidates: Sequence[Any],
  utility: Callable[[Any, Any], float] = unigram_f1,
  weights: Sequence[float] | None = None,
) -> list[Ranked]:
  """Returns the candidates by expected utility, best first (minimum Bayes risk).

  The expectation is over the candidates themselves (Eikema & Aziz 2020, section 6).

  Args:
    candidates: samples, or an n-best list; by default sequences of ids or of words.
    utility: (candidate, reference) -> its utility if the reference were right.
    weights: the probability of each candidate, up to a factor; None means equal ones,
      right for samples. For an n-best list give exp(logp).
  """
  weights = [1.0] * len(candidates) if weights is None else list(weights)
  if len(weights) != len(candidates):
    raise UserError(
      f'{len(weights)} weights for {len(candidates)} candidates; give one each'
    )
  total = sum(weights)
  if min(weights, default=1) < 0 or not total > 0 and candidates:
    raise UserError(f'weights={weights} must be at least 0, and not all 0')

  def expected(these):
    return [
      sum(w * utility(one, other) for w, other in zip(weights, these, strict=True))
      / total
      for one in these
    ]

  return rerank(candidates, expected)
