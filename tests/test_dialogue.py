"""Replies by mutual information, against sums of log p taken one by one."""

import math

import numpy as np
import pytest
from fakes import random_bytes_model

from gpt_jax.config import UserError
from gpt_jax.inference import dialogue
from gpt_jax.inference.dialogue import Ranking
from gpt_jax.tokenizers import start_of_text

TURNS = ['how are you', 'fine', 'and then']


@pytest.fixture(scope='module')
def model():
  return random_bytes_model(T=64, seed=1)


@pytest.fixture(scope='module')
def backward():
  return random_bytes_model(T=64, seed=2)


def logp(model, ids, start):
  """log p of ids[start:], by the logits of the whole row."""
  rows = np.asarray(model.logits(ids[:-1]), np.float64)
  rows -= np.log(np.exp(rows).sum(-1, keepdims=True))
  return sum(rows[i - 1, ids[i]] for i in range(start, len(ids)))


def test_whole_turns_are_read_as_far_as_they_fit():
  turns = [[1, 2], [3], [4, 5, 6]]
  assert dialogue.context(turns, 0, 9) == ([1, 2, 0, 3, 0, 4, 5, 6, 0], 3)
  assert dialogue.context(turns, 0, 8) == ([3, 0, 4, 5, 6, 0], 2)
  assert dialogue.context(turns, 0, 6) == ([3, 0, 4, 5, 6, 0], 2)
  assert dialogue.context(turns, 0, 5) == ([4, 5, 6, 0], 1)
  assert dialogue.context(turns, 0, 3) == ([5, 6, 0], 1)


def test_candidates_are_ranked_by_the_source_they_answer(model, backward):
  rows = dialogue.replies(model, TURNS, backward, max_new_tokens=8, num_return=5)
  assert len(rows) == 5
  end = start_of_text(model.tokenizer)
  encode = model.tokenizer.encode
  for row in rows:
    reply = row.ids if row.ids[-1] == end else [*row.ids, end]
    source = [i for turn in reversed(TURNS) for i in [*encode(turn), end]]
    wanted = logp(backward, [*reply, *source], len(reply))
    assert row.source_logp == pytest.approx(wanted, abs=1e-3)
    before = [i for turn in TURNS for i in [*encode(turn), end]]
    assert row.logp == pytest.approx(
      logp(model, before + row.ids, len(before)), abs=1e-3
    )
    assert row.score == row.source_logp
  scores = [row.score for row in rows]
  assert scores == sorted(scores, reverse=True)
  assert len(set(scores)) == 5


def test_the_other_scores_of_li_et_al(model, backward):
  settings = {'max_new_tokens': 6, 'num_return': 3, 'seed': 4}
  both = dialogue.replies(model, TURNS, backward, Ranking(mutual=0.3), **settings)
  for row in both:
    assert row.score == pytest.approx(0.7 * row.logp + 0.3 * row.source_logp)
  anti = dialogue.replies(model, TURNS, None, Ranking(anti=0.5, length=2), **settings)
  end = start_of_text(model.tokenizer)
  for row in anti:
    reply = row.ids if row.ids[-1] == end else [*row.ids, end]
    alone = logp(model, [end, *reply], 1)
    wanted = row.logp - 0.5 * alone + 2 * len(row.ids)
    assert row.score == pytest.approx(wanted, abs=1e-3)
    assert math.isnan(row.source_logp)


@pytest.mark.parametrize('said, text', [('fine', 'Fine!'), ('SO', 'So?')])
def test_a_reply_that_was_said_before_comes_last(model, said, text):
  choice = {
    'one_of': ['Fine!', 'So?'],
    'beams': 2,
    'num_return': 2,
    'max_new_tokens': 8,
  }
  turns = ['how', said, 'now']
  first, last = dialogue.replies(model, turns, **choice)
  assert last.text == text
  assert (first.repeats, last.repeats) == (False, True)
  free = dialogue.replies(model, turns, None, Ranking(fresh=False), **choice)
  assert free[0].score > free[1].score
  assert not any(row.repeats for row in free)


def test_older_turns_leave_where_they_outgrow_the_backward_model(backward):
  end = 0
  turns = [[7] * 30, [5] * 20, [6] * 10]
  value = dialogue.source_logp(backward, [[1, 2, end]], turns, end)[0]
  kept = [*[6] * 10, end, *[5] * 20, end]
  assert value == pytest.approx(logp(backward, [1, 2, end, *kept], 3), abs=1e-3)


@pytest.mark.parametrize(
  'turns, settings, message',
  [
    ([], {}, 'no turn to reply to'),
    (['a'], {'max_new_tokens': 64}, 'leaves no room for a dialogue'),
    (['a'], {'topk': 3, 'max_new_tokens': 9}, 'there is no setting topk'),
  ],
)
def test_what_cannot_be_answered_is_refused(model, turns, settings, message):
  with pytest.raises(UserError, match=message):
    dialogue.replies(model, turns, **settings)


def test_anti_counts_the_first_tokens_alone(model):
  end = start_of_text(model.tokenizer)
  rows = dialogue.replies(
    model, TURNS, None, Ranking(anti=0.5, first=2), max_new_tokens=6, num_return=3
  )
  for row in rows:
    reply = row.ids if row.ids[-1] == end else [*row.ids, end]
    wanted = row.logp - 0.5 * logp(model, [end, *reply][: 1 + 2], 1)
    assert row.score == pytest.approx(wanted, abs=1e-3)


def test_several_dialogues_are_answered_as_each_alone(model, backward):
  others = [TURNS, ['so', 'no'], ['what is that you said to them']]
  settings = {'beams': 4, 'max_new_tokens': 6}
  ranking = Ranking(mutual=0.4, anti=0.3, first=2, length=0.1)
  for how in (ranking, ranking._replace(inside=True)):
    together = dialogue.replies_to_all(model, others, backward, how, **settings)
    for turns, rows in zip(others, together, strict=True):
      alone = dialogue.replies(model, turns, backward, how, **settings)
      assert len(rows) == 4
      assert [row.ids for row in rows] == [row.ids for row in alone]
      assert rows[0].score == pytest.approx(alone[0].score, abs=1e-3)


def test_beams_that_are_guided_find_better_replies(model):
  ranking = Ranking(anti=0.9, first=4)
  settings = {'beams': 4, 'max_new_tokens': 6}
  plain = dialogue.replies(model, TURNS, None, ranking, **settings)
  guided = dialogue.replies(
    model, TURNS, None, ranking._replace(inside=True), **settings
  )
  assert guided[0].score > plain[0].score + 0.5


@pytest.mark.parametrize(
  'ranking, settings, message',
  [
    (Ranking(first=-1), {}, 'first=-1 must be at least 0'),
    (Ranking(inside=True), {}, 'inside=True searches beams, and beams=1; set 2'),
    (Ranking(inside=True), {'beams': 2}, 'mutual=1.0 must be .* below 1 with inside'),
  ],
)
def test_what_can_not_guide_beams_is_refused(
  model, backward, ranking, settings, message
):
  with pytest.raises(UserError, match=message):
    dialogue.replies(model, TURNS, backward, ranking, max_new_tokens=6, **settings)
