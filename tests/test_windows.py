"""Windows of tokens: pure functions of the step that cover what they should."""

import grain
import numpy as np
import pytest

from gpt_jax.config import UserError
from gpt_jax.config.length import rows_read, stage_at, stages
from gpt_jax.data import shuffle, windows

IDS = np.arange(1000, 1103, dtype=np.uint16)  # a token tells its place


def make(order='epochs', **fields):
  settings = {'T': 8, 'seed': 3, 'order': order} | fields
  sizes = stages(settings.pop('rows', 4))
  return windows.training_batches(IDS, **{'sizes': sizes} | settings)


@pytest.mark.parametrize('order', ['epochs', 'random'])
def test_a_batch_is_a_function_of_seed_and_step(order):
  forwards = [make(order)(step) for step in range(9)]
  backwards = {step: make(order)(step) for step in reversed(range(9))}
  for step, batch in enumerate(forwards):
    np.testing.assert_array_equal(batch.ids_BT, backwards[step].ids_BT)
  assert not np.array_equal(forwards[0].ids_BT, forwards[1].ids_BT)
  assert not np.array_equal(make(order, seed=4)(0).ids_BT, forwards[0].ids_BT)


@pytest.mark.parametrize('order', ['epochs', 'random'])
def test_targets_are_the_tokens_after_the_inputs(order):
  batch = make(order)(5)
  assert batch.ids_BT.shape == (4, 8) and batch.ids_BT.dtype == np.int32
  np.testing.assert_array_equal(batch.y_BT, batch.ids_BT + 1)
  assert batch.w_BT.all()
  np.testing.assert_array_equal(batch.row_B, np.arange(4))


def test_an_epoch_visits_every_window_once_with_new_cuts_and_order():
  epochs = []
  for epoch in range(6):  # 103 tokens: 11 windows of 8 and room to shift
    make_one = make(rows=1)
    starts = [int(make_one(epoch * 11 + i).ids_BT[0, 0]) - 1000 for i in range(11)]
    assert len(set(starts)) == 11
    shift = min(starts)
    assert sorted(starts) == [shift + 8 * i for i in range(11)] and shift < 8
    epochs.append(tuple(starts))
  assert len(set(epochs)) == 6
  assert len({min(starts) for starts in epochs}) > 1


def test_seeds_order_their_windows_each_in_its_way():
  def order(seed):
    make_one = make(rows=1, seed=seed)
    starts = np.array([int(make_one(i).ids_BT[0, 0]) for i in range(11)])
    return ((starts - starts.min()) // 8).tolist()

  assert len({tuple(order(seed)) for seed in range(5)}) == 5


def test_random_windows_reach_both_ends():
  starts = np.concatenate([make('random')(s).ids_BT[:, 0] for s in range(400)]) - 1000
  assert starts.min() == 0 and starts.max() == len(IDS) - 9


def test_the_shortest_text_is_one_window_and_a_token():
  ids = IDS[:9]
  batch = windows.training_batches(ids, T=8, sizes=stages(2), seed=0, order='epochs')(7)
  np.testing.assert_array_equal(batch.ids_BT, [ids[:8]] * 2)
  with pytest.raises(UserError, match='7 tokens, fewer than one context of model.T=8'):
    windows.training_batches(IDS[:8], T=8, sizes=stages(2), seed=0, order='epochs')


@pytest.mark.parametrize('rows', [1, 4, 50])
def test_held_out_windows_cover_every_target_once(rows):
  seen = []
  for batch in windows.held_out_batches(IDS, T=8, rows=rows):
    assert batch.ids_BT.shape == (rows, 8)
    seen += batch.y_BT[batch.w_BT > 0].tolist()
  assert seen == IDS[1:].tolist()


def test_a_limit_spreads_windows_over_the_text():
  rows = list(windows.held_out_batches(IDS, T=8, rows=4, limit=32))
  assert sum(batch.w_BT.sum() for batch in rows) == 32
  assert rows[0].ids_BT[:, 0].tolist() == [1000, 1024, 1048, 1072]


def test_prefetching_changes_nothing_and_stops_early():
  batch = make()
  found = [b.ids_BT for b in windows.prefetched(batch, 3, 9)]
  assert len(found) == 6
  for step, ids in enumerate(found, start=3):
    np.testing.assert_array_equal(ids, batch(step).ids_BT)
  some = windows.prefetched(batch, 0, 10**9)
  next(some)
  some.close()


def test_tokens_know_where_their_document_begins_in_the_row():
  documents = np.array([0, 10, 12], np.uint64)
  starts, numbers = np.array([2, 9]), np.arange(2)
  batch = windows.windows(np.arange(20), starts, 6, numbers, documents)
  assert batch.first_BT.tolist() == [[0] * 6, [0, 1, 1, 3, 3, 3]]
  assert windows.windows(np.arange(20), starts, 6, numbers).first_BT is None


def test_rows_of_several_files_are_read_in_their_order():
  files = [(IDS, None), (IDS + 1000, None), (IDS + 2000, None)]
  numbers, of = np.arange(7), np.array([2, 0, 1, 1, 0, 2, 1])
  rows = windows.Rows(np.array([5, 0, 9, 2, 30, 1, 4]), numbers, of)
  batch = windows.read(files, rows, 8)
  np.testing.assert_array_equal(batch.ids_BT[:, 0], 1000 + rows.starts + 1000 * of)
  np.testing.assert_array_equal(batch.row_B, numbers)
  assert batch.first_BT is None


@pytest.mark.parametrize('ramp', [0, 8 * 40])
def test_a_row_of_the_run_is_found_in_its_batch(ramp):
  sizes = stages(batch=4, start=1 if ramp else 0, ramp=ramp, T=8)
  for row in range(150):
    step, number = windows.batch_with(sizes, row)
    assert rows_read(sizes, step) + number == row
    assert number < stage_at(sizes, step).rows


def test_the_rows_that_read_a_token_are_found():
  epochs = windows.Epochs(len(IDS), 8, seed=3)
  starts = [epochs.start(row) for row in range(40)]
  for first, last in ((0, 0), (7, 8), (50, 50), (102, 102), (20, 45)):
    found = list(epochs.rows_with(first, last, 40))
    assert found == [i for i, s in enumerate(starts) if s <= last and s + 8 > first]


@pytest.mark.parametrize('number', [1, 2, 3, 700, 65_536, 65_537, 65_538, 262_145])
def test_the_shuffle_has_an_inverse(number):
  for seed, epoch in ((0, 0), (7, 3), (2**32 - 1, 2)):
    shuffled = grain.MapDataset.range(number).shuffle(seed=seed).repeat()
    some = {*range(0, number, -(-number // 500)), number - 1}
    for place in some:
      window = shuffled[epoch * number + place]
      found = [*shuffle.places(window, number, seed + epoch)]
      assert place in found
      assert all(shuffled[epoch * number + each] == window for each in found)


def test_a_shuffle_beyond_its_blocks_reads_one_window_twice():
  number = 4**8 + 1
  shuffled = grain.MapDataset.range(number).shuffle(seed=5)
  first, last = shuffled[0], shuffled[number - 1]
  assert first == last and [*shuffle.places(first, number, 5)] == [0, number - 1]
  assert not [*shuffle.places(number - 1, number, 5)]
  assert number - 1 not in {shuffled[i] for i in range(number)}
