"""Constrained beam search: against all continuations that the constraint allows."""

import itertools

import jax
import numpy as np
import pytest

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.decoding import beam, constraints
from gpt_jax.decoding.beam import Beams
from gpt_jax.model.gpt import GPT, init_params, unembed
from gpt_jax.model.gpt_config import GPTConfig

V, NEW = 5, 4
EOT = V - 1
SHAPE = GPTConfig.of(config.Model(L=1, D=16, N=2, T=16), vocab=V)
PROMPTS = [[1, 2, 0], [2]]
IDS = {'vocab': V, 'ends': (EOT,)}
ENDINGS = [
  ids
  for n in range(1, NEW + 1)
  for ids in itertools.product(range(V), repeat=n)
  if EOT not in ids[:-1] and (n == NEW or ids[-1] == EOT)
]
PHRASES = [
  [(1,)],
  [(1, 2)],
  [(1, 1), (2,)],
  [(0, 1), (1, 0)],
  [(0, 0, 1), (0, 1)],  # one within the other
  [(2, 0, 2)],
]


@pytest.fixture(scope='module')
def params():
  draw = np.random.RandomState(1)
  shapes = jax.eval_shape(lambda: init_params(SHAPE, 0))
  return jax.tree.map(lambda p: np.float32(0.4 * draw.randn(*p.shape)), shapes)


@pytest.fixture(scope='module')
def logp(params):
  """Returns log p of each continuation of each prompt, by full forward passes."""
  found = []
  for prompt in PROMPTS:
    ids_BT = np.zeros((len(ENDINGS), SHAPE.T), np.int32)
    for row, ids in zip(ids_BT, ENDINGS, strict=True):
      row[: len(prompt) + len(ids)] = [*prompt, *ids]
    x = GPT(SHAPE).apply({'params': params}, ids_BT)[0]
    logp = jax.nn.log_softmax(unembed(GPT(SHAPE), params, x))
    logp = np.asarray(logp)[:, len(prompt) - 1 :]
    found.append(
      {ids: logp[i, range(len(ids)), ids].sum() for i, ids in enumerate(ENDINGS)}
    )
  return found


def search(params, constraint, beams, max_new_tokens=NEW):
  return beam.generate(
    params,
    GPT(SHAPE),
    PROMPTS,
    max_new_tokens=max_new_tokens,
    beams=Beams(beams, length_penalty=1.0, penalty_form='hf'),
    num_return=beams,
    constraint=constraint,
    eot=EOT,
  )


def within(phrase, ids):
  n = len(phrase)
  return any(tuple(ids[i : i + n]) == tuple(phrase) for i in range(len(ids)))


def assert_best(found, logp, allowed, beams):
  """The hypotheses are the best of those allowed, in order."""
  for rows, of in zip(found, logp, strict=True):
    wanted = sorted((-of[ids] / len(ids), ids) for ids in ENDINGS if allowed(ids))
    wanted = wanted[:beams]
    np.testing.assert_allclose([-x.score for x in rows], [s for s, _ in wanted], 1e-4)
    assert {tuple(x.ids) for x in rows} == {ids for _, ids in wanted}


def test_a_trie_gives_exactly_its_sequences_best_first(params, logp):
  sequences = [(0, 1), (0, 2), (0,), (1, 1, 1), (2, 0, 1), (2, 1), (3, 3, 0, 0, 1)]
  found = search(params, constraints.one_of(sequences, **IDS), 8)
  fit = {(*ids, EOT) for ids in sequences[:-1]}  # the last has no room for its end
  assert [len(rows) for rows in found] == [len(fit)] * len(PROMPTS)
  assert_best(found, logp, lambda ids: ids in fit, 8)


def test_a_narrow_trie_search_still_gives_one_of_its_sequences(params):
  sequences = [(3, 0, 1), (3, 1), (0, 0, 0)]
  found = search(params, constraints.one_of(sequences, **IDS), 2)
  for rows in found:
    assert {tuple(x.ids[:-1]) for x in rows} <= set(sequences)
    assert all(x.ids[-1] == EOT for x in rows)


@pytest.mark.parametrize('phrases', PHRASES)
def test_all_beams_find_the_best_texts_with_the_phrases(params, logp, phrases):
  def allowed(ids):
    return all(within(phrase, ids) for phrase in phrases)

  beams = V ** (NEW - 1)
  found = search(params, constraints.including(phrases, **IDS), beams)
  assert_best(found, logp, allowed, beams)


@pytest.mark.parametrize('beams', [1, 3])
def test_every_result_of_a_narrow_search_has_every_phrase(params, beams):
  phrases = [(3, 0), (3, 3, 1), (1, 2)]
  constraint = constraints.including(phrases, **IDS)
  for rows in search(params, constraint, beams, max_new_tokens=9):
    for x in rows:
      assert all(within(phrase, x.ids) for phrase in phrases)
      assert EOT not in x.ids[:-1]


def walk(automaton, ids):
  """Returns the state after the tokens."""
  state = 0
  for token in ids:
    edge = (automaton.from_E == state) & (automaton.token_E == token)
    state = int(automaton.to_E[edge][0]) if edge.any() else automaton.default_Q[state]
  return state


@pytest.mark.parametrize('phrases', PHRASES)
def test_the_automaton_knows_what_is_met_and_how_much_is_missing(phrases):
  automaton = constraints.including(phrases, **IDS)

  def met(ids):
    return all(within(phrase, ids) for phrase in phrases)

  for ids in itertools.product(range(3), repeat=4):
    state = walk(automaton, ids)
    assert automaton.may_end_Q[state] == met(ids)
    assert (automaton.need_Q[state] == 0) == met(ids)
    if not met(ids):
      need = next(
        n
        for n in range(1, 9)
        if any(met((*ids, *more)) for more in itertools.product(range(3), repeat=n))
      )
      assert automaton.need_Q[state] == need


def test_beams_are_shared_among_banks():
  score = np.array([[-1, -2, -3, -4, -5, -6, -np.inf, -0.5, -7, -8, -9, -10.0]])
  bank = np.array([[0, 0, 0, 0, 1, 2, 1, 0, 1, 2, 2, 2]])
  scores, order = constraints.share(score, bank, C=12, banks=3)
  # Two places for each bank first, in order of score; then the rest.
  wanted = [7, 0, 4, 5, 8, 9, 1, 2, 3, 10, 11]
  assert order[0, :11].tolist() == wanted
  assert scores[0].tolist() == [*score[0, wanted], -np.inf]


def test_no_candidate_is_there_twice():
  constraint = constraints.including([(1, 2)], **IDS)
  score = np.full((1, 30, V), -np.inf, np.float32)
  score[0, 0] = range(V)  # one beam is live
  at, left = np.zeros((1, 30), int), np.array([3])
  found = constraints.choice(constraint, score, at, left, np.arange(V) == EOT)
  real = np.isfinite(found.score_RC)
  assert found.token_RC[real].tolist() == [3, 2, 1, 0]
  assert found.parent_RC[real].tolist() == [0] * 4


@pytest.mark.parametrize(
  ('make', 'wrong', 'named'),
  [
    (constraints.one_of, [], 'sequences is empty'),
    (constraints.one_of, [(1,), ()], r'sequences\[1\] is empty'),
    (constraints.including, [(1, EOT)], 'holds end-of-text'),
    (constraints.including, [(1, V)], 'must be ids in'),
    (constraints.including, [(i, j) for i in range(3) for j in range(3)], 'too many'),
  ],
)
def test_constraints_that_make_no_sense_are_refused(make, wrong, named):
  with pytest.raises(UserError, match=named):
    make(wrong, **IDS)


def test_too_little_room_for_a_constraint_is_an_error(params):
  constraint = constraints.including([(0, 1, 2), (3, 3)], **IDS)
  with pytest.raises(UserError, match='takes 5 tokens at least'):
    search(params, constraint, 3)
  with pytest.raises(UserError, match='takes 4 tokens at least'):
    search(params, constraints.one_of([(0, 1, 2)], **IDS), 3, max_new_tokens=3)
