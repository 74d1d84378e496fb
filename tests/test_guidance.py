"""Guided beams: against all continuations, and a search in plain Python."""

import functools

import jax
import numpy as np
import pytest
from continuations import endings

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.decoding import beam
from gpt_jax.decoding.beam import Beams
from gpt_jax.decoding.guidance import Guidance
from gpt_jax.model.gpt import GPT, init_params, unembed
from gpt_jax.model.gpt_config import GPTConfig

EOT, V, NEW = 3, 4, 3
SHAPE = GPTConfig.of(config.Model(L=1, D=16, N=2, T=24), vocab=V)
GPT_ = GPT(SHAPE)
PROMPTS = [[1, 2, 0, EOT], [2, EOT], [0, 1, 1, EOT]]
SOURCES = [[1, 2, 0, EOT], [2, EOT], [1, EOT, 0, EOT]]
WITH = [
  {'anti': 0.7, 'first': 2, 'length': 0.4},
  {'weight': 1.5},
  {'anti': 0.5, 'first': 1, 'length': -0.3, 'weight': 0.6},
]


def random_params(seed):
  draw = np.random.RandomState(seed)
  shapes = jax.eval_shape(lambda: init_params(SHAPE, 0))
  return jax.tree.map(lambda p: np.float32(0.5 * draw.randn(*p.shape)), shapes)


PARAMS, BACKWARD = random_params(1), random_params(2)


@jax.jit
def forward(params, ids_BT):
  x = GPT_.apply({'params': params}, ids_BT)[0]
  return jax.nn.log_softmax(unembed(GPT_, params, x))


@functools.cache
def _logp(kind, before, ids):
  params = BACKWARD if kind == 'backward' else PARAMS
  row = np.zeros((1, SHAPE.T), np.int32)
  row[0, : len(before) + len(ids)] = [*before, *ids]
  table = np.asarray(forward(params, row))[0]
  return [float(table[len(before) - 1 + i, token]) for i, token in enumerate(ids)]


def logp(before, ids, kind=''):
  """log p of each of ids after `before`, by one pass over them all."""
  return _logp(kind, tuple(before), tuple(ids))


class Score:
  """The score of a text, term by term."""

  def __init__(self, number, anti=0.0, first=0, length=0.0, weight=0.0):
    self.prompt, self.source = PROMPTS[number], SOURCES[number]
    self.anti, self.first = anti, first or 99
    self.length, self.weight = length, weight

  def known(self, ids):
    alone = sum(logp([EOT], ids)[: self.first]) if self.anti else 0
    own = sum(logp(self.prompt, ids))
    return own - self.anti * alone + self.length * len(ids)

  def back(self, ids):
    if not self.weight or not ids:
      return 0.0
    reply = [*ids, *([] if ids[-1] == EOT else [EOT])]
    return self.weight * sum(logp(reply, self.source, 'backward'))

  def __call__(self, ids):
    return self.known(ids) + self.back(ids)


def search(beams, number=None, **terms):
  prompts = PROMPTS if number is None else [PROMPTS[number]]
  sources = SOURCES if number is None else [SOURCES[number]]
  guidance = Guidance(
    alone=EOT, sources=sources, params=BACKWARD, backward=GPT_, **terms
  )
  return beam.generate(
    PARAMS,
    GPT_,
    prompts,
    max_new_tokens=NEW,
    beams=beams,
    num_return=beams.beams,
    guidance=guidance,
    eot=EOT,
  )


@pytest.mark.parametrize('terms', WITH, ids=str)
def test_all_beams_are_the_best_of_all_continuations(terms):
  beams = Beams(V**NEW, length_penalty=0.0, early_stopping='never')
  for number, rows in enumerate(search(beams, **terms)):
    score = Score(number, **terms)
    wanted = sorted(((score(ids), ids) for ids in endings(V, NEW, EOT)), reverse=True)
    assert len(rows) == len(wanted)
    np.testing.assert_allclose(
      [row.score for row in rows], [value for value, _ in wanted], atol=1e-3
    )
    assert tuple(rows[0].ids) == wanted[0][1]
    for row in rows[:5]:
      np.testing.assert_allclose(
        row.token_logp, logp(PROMPTS[number], row.ids), atol=1e-4
      )


def naive(score, K, alpha):
  """Returns (score, ids) of a search that never stops before the limit."""
  live, done = [((), 0.0)], []
  for n in range(1, NEW + 1):
    # What is known before the backward model reads them decides on 2 K of them.
    longer = [
      (score.known((*ids, token)) + score.back(ids), (*ids, token))
      for ids, _ in live
      for token in range(V)
    ]
    longer = [ids for _, ids in sorted(longer, reverse=True)[: 2 * K]]
    ranked = sorted(((score(ids), ids) for ids in longer), reverse=True)
    ends = [ids[-1] == EOT or n == NEW for _, ids in ranked]
    penalty = ((5 + n) / 6) ** alpha
    done += [
      (value / penalty, ids)
      for (value, ids), end in zip(ranked[:K], ends, strict=False)
      if end
    ]
    done = sorted(done, reverse=True)[:K]
    live = [
      (ids, value) for (value, ids), end in zip(ranked, ends, strict=True) if not end
    ][:K]
  return done


@pytest.mark.parametrize('terms', WITH, ids=str)
@pytest.mark.parametrize('K, alpha', [(3, 0.0), (3, 0.6)])
def test_few_beams_are_those_of_a_plain_search(K, alpha, terms):
  beams = Beams(K, length_penalty=alpha, early_stopping='never')
  for number, rows in enumerate(search(beams, **terms)):
    wanted = naive(Score(number, **terms), K, alpha)
    values = [value for value, _ in wanted]
    np.testing.assert_allclose([row.score for row in rows], values, atol=1e-3)
    assert [tuple(row.ids) for row in rows] == [ids for _, ids in wanted]


def test_no_weight_is_the_plain_search():
  for stopping in (False, True):
    beams = Beams(3, early_stopping=stopping)
    plain = beam.generate(
      PARAMS, GPT_, PROMPTS, max_new_tokens=NEW, beams=beams, num_return=3, eot=EOT
    )
    assert search(beams) == plain


def test_groups_are_not_guided():
  with pytest.raises(UserError, match='groups=2 must be 1 where beams are guided'):
    search(Beams(4, groups=2), anti=0.5)
