"""experiments/dialogpt/replies.py: what it measures, on texts of known answers."""

import json

import numpy as np
import pytest
from fakes import random_bytes_model
from scripts import opened

from gpt_jax.config import UserError
from gpt_jax.evaluation import dialogue_metrics

replies = opened('dialogpt/replies.py')


@pytest.fixture
def place(tmp_path):
  path = tmp_path / 'dev.jsonl'
  rows = [{'turns': [f'{i} {j}' for j in range(2 + i % 4)]} for i in range(25)]
  path.write_text(''.join(json.dumps(row) + '\n' for row in [*rows, {'turns': ['a']}]))
  return path


def test_questions_are_a_turn_of_each_dialogue_in_whole_tens(place):
  asked = replies.questions(place, 25)
  assert len(asked) == 20
  assert len({one.reply.split()[0] for one in asked}) == 20
  for one in asked:
    number = one.reply.split()[0]
    assert one.source == [f'{number} {j}' for j in range(len(one.source))]
    assert one.reply == f'{number} {len(one.source)}'
  assert {len(one.source) for one in asked} >= {1, 2, 3}
  with pytest.raises(UserError, match='has 25 dialogues, and ten are needed'):
    replies.questions(place, 9)


def test_a_judge_picks_what_gains_most_and_shares_ties():
  logp = np.zeros((2, 3, 3))
  logp[0] = [[0, 5, 1], [0, 9, 1], [0, 5, 2]]  # the second source is likely anyway
  right = replies.picked(logp)
  # gains of the first reply: 0, -4/3, -1/3; of the second 0, 8/3, ..; of the third 0,
  # -4/3, 2/3
  np.testing.assert_allclose(right[0], [1, 1, 1])
  np.testing.assert_allclose(right[1], [1 / 3] * 3)  # all replies are the same


def test_equal_replies_are_recognised_by_chance(place):
  asked = replies.questions(place, 10)
  judge = random_bytes_model(T=64, seed=1)
  same = replies.recognised(judge, asked, ['yes'] * 10)
  np.testing.assert_allclose(same, np.full((1, 10), 0.1))
  other = replies.recognised(judge, asked, [one.source[-1] for one in asked])
  assert other.shape == (1, 10) and set(other.ravel()) <= {0.0, 1.0}


def test_an_interval_lies_around_the_value():
  numbers = np.arange(400.0)
  value, low, high = replies.around(lambda i: numbers[i].mean(), 400, 500)
  assert value == numbers.mean()
  error = numbers.std() / 20
  assert value - low == pytest.approx(1.96 * error, rel=0.15)
  assert high - value == pytest.approx(1.96 * error, rel=0.15)
  # distinct numbers of a draw are fewer, and the interval is not
  value, low, high = replies.around(lambda i: float(len(set(i))), 50, 200)
  assert low < value < high


def test_chats_are_compared_at_equal_words():
  late, early = ['a b', 'a b', 'a b'], ['c d e f']
  # 4 words of each: 'a b', 'a b' and nothing; 'c d e f'
  assert replies.dist2_at_equal_words(late, early) == (1 / 2, 1)
  assert dialogue_metrics.distinct(late, 2) == 1 / 3


def test_turns_that_repeat_are_counted_with_the_opening():
  said = [['Hi!', 'so', 'SO.', 'then'], ['a', 'b', 'c', 'd']]
  np.testing.assert_allclose(replies.repeats(['hi', 'x'], said), [2 / 4, 0])


def test_chats_answer_themselves(place):
  model = random_bytes_model(T=64, seed=1)
  how = {'turns': 2, 'samples': 2, 'longest': 5, 'controls': True}
  said = replies.chats(model, model, ['hi', 'so'], **how)
  assert [len(turns) for turns in said] == [2, 2]
  assert said == replies.chats(model, model, ['hi', 'so'], **how)


def test_what_was_made_is_read_again(tmp_path):
  path = tmp_path / 'a.txt'
  assert replies.kept(path, lambda: ['a', '', 'b']) == ['a', '', 'b']
  assert replies.kept(path, lambda: ['c']) == ['a', '', 'b']
