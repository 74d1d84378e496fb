"""Labelled examples as sequences, and the order in which they are read."""

import numpy as np
import pytest

from gpt_jax.config.length import stages
from gpt_jax.tasks import inputs as task_inputs
from gpt_jax.tasks.inputs import Order, answers, inputs, padded_length
from gpt_jax.tasks.labelled import Example
from gpt_jax.tasks.labelled_table import TASKS

VOCAB = 1000
S, DELIMITER, E = 1000, 1001, 1002


def encode(text):
  """Words as numbers: 'w7' is 7."""
  return [int(word[1:]) for word in text.split()]


def words(first, number):
  return ' '.join(f'w{first + i}' for i in range(number))


def read(task, *examples, T=64):
  return inputs(TASKS[task], examples, encode, VOCAB, T)


def lists(data):
  return [[ids.tolist() for ids in each] for each in data.sequences]


def test_a_classification_is_start_text_extract():
  data = read('sst2', Example(('w1 w2',), label=1))
  assert lists(data) == [[[S, 1, 2, E]]]
  assert data.targets.tolist() == [[0, 1]]


def test_an_entailment_has_a_delimiter_between_premise_and_hypothesis():
  data = read('mnli', Example(('w1 w2', 'w3'), label=2))
  assert lists(data) == [[[S, 1, 2, DELIMITER, 3, E]]]
  assert data.targets.tolist() == [[0, 0, 1]]


def test_a_similarity_is_read_in_both_orders():
  data = read('mrpc', Example(('w1 w2', 'w3'), label=0))
  assert lists(data) == [[[S, 1, 2, DELIMITER, 3, E], [S, 3, DELIMITER, 1, 2, E]]]


def test_a_choice_follows_passage_and_question_which_nothing_divides():
  data = read('race', Example(('w1', 'w2'), ('w3', 'w4', 'w5', 'w6'), 3))
  wanted = [[S, 1, 2, DELIMITER, choice, E] for choice in (3, 4, 5, 6)]
  assert lists(data) == [wanted]
  assert data.targets.tolist() == [[0, 0, 0, 1]]


def test_of_two_texts_each_is_cut_to_half_the_context_less_two():
  data = read('rte', Example((words(0, 50), words(100, 50)), label=0))
  (ids,) = data.sequences[0]
  assert data.truncated == 1 and len(ids) == 63
  assert ids.tolist() == [S, *range(30), DELIMITER, *range(100, 130), E]


def test_a_single_text_may_fill_the_context():
  exact = read('sst2', Example((words(0, 62),), label=0))
  assert exact.truncated == 0 and len(exact.sequences[0][0]) == 64
  longer = read('sst2', Example((words(0, 63),), label=0))
  assert longer.truncated == 1 and longer.sequences[0][0].tolist() == [
    S,
    *range(62),
    E,
  ]


def test_a_passage_is_cut_before_its_question():
  example = Example((words(0, 50), words(100, 5)), ('w7', 'w8', 'w9', 'w10'), 0)
  data = read('race', example)
  wanted = [S, *range(25), *range(100, 105), DELIMITER, 7, E]
  assert data.truncated == 1 and data.sequences[0][0].tolist() == wanted


@pytest.mark.parametrize('score', [0.0, 0.25, 2.0, 3.8, 5.0])
def test_a_score_is_the_mean_of_its_target(score):
  data = read('stsb', Example(('w1', 'w2'), label=score))
  (target,) = data.targets
  assert target.sum() == pytest.approx(1) and (target > 0).sum() <= 2
  assert target @ np.arange(6) == pytest.approx(score)
  said = answers(TASKS['stsb'], np.log(target + 1e-30)[None])
  assert said[0] == pytest.approx(score, abs=1e-6)


def test_an_example_without_label_has_no_target():
  assert read('sst2', Example(('w1',))).targets.tolist() == [[0, 0]]


def test_the_answer_is_the_class_with_the_highest_logit():
  assert answers(TASKS['mnli'], [[0, 3, 1], [5, 3, 1]]).tolist() == [1, 0]


def test_padded_lengths_hold_the_sequence_and_waste_less_than_half_of_it():
  for length in range(1, 513):
    size = padded_length(length, 512)
    assert length <= size <= max(16, 1.5 * length)
  assert {padded_length(n, 512) for n in range(1, 513)} == {
    *(16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
  }
  assert padded_length(100, 100) == 100


LENGTHS = np.random.default_rng(0).integers(3, 100, 333)


@pytest.mark.parametrize('by', ['length', 'random'])
def test_an_epoch_reads_every_example_once_and_no_batch_is_too_short(by):
  order = Order(LENGTHS, stages(32), 128, by)
  assert [order.updates(epochs) for epochs in (1, 2, 5)] == [11, 22, 55]
  for seed, epoch in ((0, 0), (0, 1), (7, 0)):
    seen = []
    for i in range(11):
      chosen, rows, size = order.at(seed, epoch * 11 + i)
      assert LENGTHS[chosen].max() <= size and len(chosen) <= rows == 32
      seen += chosen.tolist()
    assert sorted(seen) == list(range(333))


def test_seeds_and_epochs_differ_in_their_batches_but_not_in_their_lengths():
  order = Order(LENGTHS, stages(32), 128, 'length')
  one, other = ([order.at(seed, i) for i in range(22)] for seed in (0, 1))
  assert [size for *_, size in one] == [size for *_, size in other]
  assert any(set(a) != set(b) for (a, *_), (b, *_) in zip(one, other, strict=True))
  sizes = [size for *_, size in one]
  assert sorted(sizes[:11]) == sorted(sizes[11:]) and sizes[:11] != sizes[11:]
  assert {frozenset(c) for c, *_ in one[:11]} != {frozenset(c) for c, *_ in one[11:]}


def test_growing_updates_read_every_example_once_an_epoch():
  order = Order(LENGTHS, stages(32, start=8, ramp=128 * 100, T=128), 128, 'length')
  updates = order.updates(1)
  read = [order.at(0, i) for i in range(updates)]
  rows = [rows for _, rows, _ in read]
  assert rows[0] == 8 and rows[-1] == 32 and rows == sorted(rows)
  assert all(len(chosen) <= number for chosen, number, _ in read)
  assert all(LENGTHS[chosen].max() <= size for chosen, _, size in read)
  seen = [example for chosen, *_ in read for example in chosen.tolist()]
  # The last update may read into the next epoch.
  assert sorted(seen[:333]) == list(range(333)) and len(seen) < 333 + 32


def test_batches_by_length_compute_less_padding():
  orders = {by: Order(LENGTHS, stages(32), 128, by) for by in ('length', 'random')}
  count = {by: sum(order.sizes) for by, order in orders.items()}
  assert count['length'] < 0.7 * count['random']


def test_rows_that_fill_a_batch_weigh_nothing():
  data = read('mrpc', *[Example(('w1', 'w2 w3'), label=1)] * 3)
  made = task_inputs.batch(data, np.array([2]), 2, 16)
  assert made.ids_BCT.shape == (2, 2, 16) and made.tokens == 64
  assert made.w_B.tolist() == [1, 0]
  assert made.length_BC.tolist() == [[6, 6], [1, 1]]
  assert made.target_BK.tolist() == [[0, 1], [0, 0]]


def test_reading_alone_gives_every_example_once_by_length():
  data = read('sst2', *(Example((words(0, n),), label=0) for n in (40, 3, 9, 61, 5)))
  found = list(task_inputs.all_batches(data, 2, 64))
  assert [chosen.tolist() for chosen, _ in found] == [[1, 4], [2, 0], [3]]
  assert [made.ids_BCT.shape[-1] for _, made in found] == [16, 48, 64]


def test_a_score_that_is_answered_is_the_mean_of_its_probabilities():
  task = TASKS['stsb']  # 0 to 5
  p = np.array([[0.1, 0.0, 0.2, 0.3, 0.4, 0.0], [1 / 6] * 6])
  found = answers(task, np.log(np.maximum(p, 1e-30)))
  np.testing.assert_allclose(found, [0.4 + 0.9 + 1.6, 2.5])
